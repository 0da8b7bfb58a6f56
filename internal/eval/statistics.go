package eval

import (
	"cmp"
	"math"
	"slices"
)

// quantile of values, 0 to 1, between the two that are next to it (Hyndman and Fan's definition 7). NaN of nothing.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(values))
	at := q * float64(len(v)-1)
	low := int(at)
	if low+1 >= len(v) {
		return v[len(v)-1]
	}
	return v[low] + (at-float64(low))*(v[low+1]-v[low])
}

// spread is a group of values at one place.
type spread struct {
	x                      float64
	n                      int
	least, median, most    float64
	lowerQuart, upperQuart float64
}

// spreads groups samples by their X, in its order.
func spreads(all []Sample) (groups []spread) {
	at := make(map[float64][]float64)
	for _, s := range all {
		at[s.X] = append(at[s.X], s.Y)
	}
	for x, v := range at {
		groups = append(groups, spread{x, len(v), slices.Min(v), quantile(v, 0.5), slices.Max(v), quantile(v, 0.25), quantile(v, 0.75)})
	}
	slices.SortFunc(groups, func(a, b spread) int { return cmp.Compare(a.x, b.x) })
	return groups
}

// series are the names of samples' lines, in the order in which they came first.
func series(all []Sample) (names []string) {
	for _, s := range all {
		if !slices.Contains(names, s.Series) {
			names = append(names, s.Series)
		}
	}
	return names
}

// of a series, and of a part of it, unless that is empty.
func of(all []Sample, series, part string) (some []Sample) {
	for _, s := range all {
		if s.Series == series && (part == "" || s.Part == part) {
			some = append(some, s)
		}
	}
	return some
}

// values are the samples' own.
func values(all []Sample) (v []float64) {
	for _, s := range all {
		v = append(v, s.Y)
	}
	return v
}
