//go:build amd64

package wrap

import (
	"testing"

	"lockstep/wrap/determinant"
	"lockstep/wrap/trace"
)

// One that has no event is given the time while its calls are answered and its children begin (the race detector looks on).
func TestTimeWithoutEvents(t *testing.T) {
	s, err := newSupervisor(Options{Authority: Alone(), Secret: make([]byte, determinant.SecretSize), Messages: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	parent := &trace.Process{}
	p := &process{}
	s.serve(p, s.join(determinant.Connection{}), "")
	s.add(parent, p)
	stop := s.keepTime()
	defer stop()
	until(t, "the time", func() bool {
		child := &trace.Process{}
		s.Forked(parent, child)
		c, _ := s.shown(of(child))
		s.Ended(child, 0)
		return c.Real != 0
	})
}
