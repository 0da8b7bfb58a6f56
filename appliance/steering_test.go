package appliance

import (
	"errors"
	"testing"

	"lockstep/tun/steer"
)

// Who cannot have flows has the short cuts that `auto` has, and learns why.
func TestSteerAtLeast(t *testing.T) {
	none := errors.New("no")
	for name, c := range map[string]struct {
		flows, most int // that the kernel gives; -1: no steering at all
		tried       int
		without     error
		err         error
	}{
		"flows":           {7, 7, 1, nil, nil},
		"not asked for":   {0, 0, 1, nil, nil},
		"no flows":        {7, 0, 2, none, nil},
		"nothing at all":  {7, -1, 2, none, none},
		"nothing for all": {0, -1, 1, nil, none},
	} {
		tried := 0
		_, without, err := steerAtLeast(steer.Config{Flows: c.flows}, func(got steer.Config) (*steer.Steering, error) {
			if tried++; got.Flows > c.most {
				return nil, none
			}
			return &steer.Steering{}, nil
		})
		if tried != c.tried || !errors.Is(without, c.without) || !errors.Is(err, c.err) || c.err == nil && err != nil {
			t.Errorf("%s: tried %d times, without %v, error %v", name, tried, without, err)
		}
	}
}
