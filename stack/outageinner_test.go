package stack

import (
	"testing"
	"time"
)

// Who comes back within a second of the last questions is not forgotten: others are asked for it then.
func TestComebackIsPutOff(t *testing.T) {
	var p prober
	p.back, p.backSince = true, 5*time.Second
	if since, _, ok := p.cameBack(10 * time.Second); !ok || since != 5*time.Second {
		t.Fatalf("others are asked: %v, since %v", ok, since)
	}
	p.back, p.backSince = true, 7*time.Second
	if _, again, ok := p.cameBack(10500 * time.Millisecond); ok || again != 500*time.Millisecond {
		t.Errorf("half a second later others are asked: %v, or again in %v", ok, again)
	}
	if since, _, ok := p.cameBack(11 * time.Second); !ok || since != 7*time.Second {
		t.Errorf("a second later others are asked: %v, since %v", ok, since)
	}
}
