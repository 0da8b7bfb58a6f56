package metrics

import (
	"fmt"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// Family is one metric with all its labels' values. docs/metrics.md has a row for each,
// which a test compares.
type Family struct {
	Name   string
	Help   string
	Total  bool // a counter; else a gauge
	Labels []string
}

// Set makes samples of families.
type Set map[string]described

type described struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

// NewSet describes the families to Prometheus.
func NewSet(families []Family) Set {
	s := make(Set, len(families))
	for _, f := range families {
		kind := prometheus.GaugeValue
		if f.Total {
			kind = prometheus.CounterValue
		}
		s[f.Name] = described{prometheus.NewDesc(f.Name, f.Help, f.Labels, nil), kind}
	}
	return s
}

// Emit returns what sends samples to out. A sample that cannot be made fails the scrape,
// with a reason; a label that is no UTF-8 does not.
func (s Set) Emit(out chan<- prometheus.Metric) func(name string, v float64, labels ...string) {
	return func(name string, v float64, labels ...string) {
		d, ok := s[name]
		if !ok {
			err := fmt.Errorf("no family is called %s", name)
			out <- prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(err), err)
			return
		}
		for i, l := range labels {
			labels[i] = strings.ToValidUTF8(l, "?")
		}
		m, err := prometheus.NewConstMetric(d.desc, d.kind, v, labels...)
		if err != nil {
			m = prometheus.NewInvalidMetric(d.desc, err)
		}
		out <- m
	}
}

// Truth is how a yes or a no is exported.
func Truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
