package bench

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func TestEnds(t *testing.T) {
	var all unix.CPUSet
	for _, i := range []int{3, 5, 70} {
		all.Set(i)
	}
	first, last, err := ends(&all)
	if err != nil || first.Count() != 1 || !first.IsSet(3) || last.Count() != 1 || !last.IsSet(70) {
		t.Errorf("%v, %v, %v", first, last, err)
	}
	var one unix.CPUSet
	one.Set(7)
	if _, _, err := ends(&one); !errors.Is(err, errOneCPU) {
		t.Errorf("one CPU: %v", err)
	}
}
