package bench

import (
	"math"
	"slices"
)

// key of a cell in the table.
type key struct {
	mode    mode
	gateway kind
	figure  string
}

// sample is one measured value.
type sample struct {
	Round int     `json:"round"` // or run, from 0; samples of the same round can be compared
	Value float64 `json:"value"`
	// Others is the share of all CPUs that other programs used during the measurement, 0 to 1.
	Others float64 `json:"others"`
}

// cell is what is known of one figure of one gateway.
type cell struct {
	samples []sample
	// note says why there is no value (or not as many as asked for); the first one counts.
	note string
}

// samples holds all cells of a bench. Not for concurrent use.
type samples struct{ cells map[key]*cell }

func newSamples() *samples { return &samples{cells: make(map[key]*cell)} }

func (s *samples) cell(k key) *cell {
	c := s.cells[k]
	if c == nil {
		c = &cell{}
		s.cells[k] = c
	}
	return c
}

// add a value. One that is not a number (a division by nothing measured) is none.
func (s *samples) add(k key, v sample) {
	if math.IsNaN(v.Value) || math.IsInf(v.Value, 0) {
		return
	}
	c := s.cell(k)
	c.samples = append(c.samples, v)
}

func (s *samples) note(k key, why string) {
	if c := s.cell(k); c.note == "" {
		c.note = why
	}
}

func (s *samples) values(k key) (all []float64) {
	if c := s.cells[k]; c != nil {
		for _, v := range c.samples {
			all = append(all, v.Value)
		}
	}
	return all
}

// median of a cell; ok is false when it has no value.
func (s *samples) median(k key) (m float64, ok bool) { return median(s.values(k)) }

// worst is the largest value of a cell.
func (s *samples) worst(k key) (float64, bool) {
	v := s.values(k)
	if len(v) == 0 {
		return 0, false
	}
	return slices.Max(v), true
}

// compare combines two cells round by round and returns the median of that. Rounds in which
// either is missing do not count.
func (s *samples) compare(a, b key, f func(a, b float64) float64) (float64, bool) {
	ca, cb := s.cells[a], s.cells[b]
	if ca == nil || cb == nil {
		return 0, false
	}
	var all []float64
	for _, x := range ca.samples {
		i := slices.IndexFunc(cb.samples, func(y sample) bool { return y.Round == x.Round })
		if i < 0 {
			continue
		}
		if v := f(x.Value, cb.samples[i].Value); !math.IsNaN(v) && !math.IsInf(v, 0) {
			all = append(all, v)
		}
	}
	return median(all)
}

func ratio(a, b float64) float64      { return a / b }
func difference(a, b float64) float64 { return a - b }

// median of values; with an even number of them the mean of the middle two.
func median(values []float64) (float64, bool) {
	if len(values) == 0 {
		return 0, false
	}
	v := slices.Sorted(slices.Values(values))
	m := len(v) / 2
	if len(v)%2 == 1 {
		return v[m], true
	}
	return (v[m-1] + v[m]) / 2, true
}
