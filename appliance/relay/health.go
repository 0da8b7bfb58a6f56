package relay

import (
	"sync"
	"time"
)

type serverKey struct {
	svc *Service
	i   int
}

// health remembers which servers refused or did not answer, from the dials
// themselves.
type health struct {
	mu     sync.Mutex
	failed map[serverKey]time.Duration // when
	probed map[serverKey]time.Duration // the health check fails: when it did so last
	now    func() time.Duration
}

func (h *health) up(s *Service, i int) {
	h.mu.Lock()
	delete(h.failed, serverKey{s, i})
	h.mu.Unlock()
	if s.Alive != nil {
		s.Alive(i)
	}
}

func (h *health) down(s *Service, i int) {
	h.mu.Lock()
	h.failed[serverKey{s, i}] = h.now()
	h.mu.Unlock()
	if s.Doubt != nil {
		s.Doubt(i)
	}
}

// pick chooses the server for attempt n (0: the first that is not known to have
// failed lately; later: the following ones). ok is false for a server of the
// wrong address family.
func (h *health) pick(s *Service, v6 bool, n, last int) (i int, ok bool) {
	fits := func(i int) bool { return s.fits(i, v6) }
	if n > 0 {
		i = (last + 1) % len(s.Servers)
		return i, fits(i)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	first := -1
	for i := range s.Servers {
		if !fits(i) {
			continue
		}
		if first < 0 {
			first = i
		}
		_, down := h.probed[serverKey{s, i}]
		if at, bad := h.failed[serverKey{s, i}]; !down && (!bad || now-at > s.DownFor) {
			return i, true
		}
	}
	return max(first, 0), first >= 0
}

// Healthy reports whether the i-th server of s answered when last asked.
func (r *Relay) Healthy(s *Service, i int) bool {
	r.health.mu.Lock()
	defer r.health.mu.Unlock()
	_, bad := r.health.failed[serverKey{s, i}]
	_, down := r.health.probed[serverKey{s, i}]
	return !bad && !down
}

// bad reports whether the i-th server of s is not to be tried: its health check
// fails, or it has failed lately.
func (h *health) bad(s *Service, i int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, down := h.probed[serverKey{s, i}]
	at, bad := h.failed[serverKey{s, i}]
	return down || bad && h.now()-at <= s.DownFor
}

// probedDown reports whether the health check of the i-th server of s fails, and
// whether it has done so since.
func (h *health) probedDown(s *Service, i int, since time.Duration) (down, again bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at, down := h.probed[serverKey{s, i}]
	return down, down && at > since
}

// SetHealth tells what the health check of a server has found; that it still fails may
// be told again. Kept connections that it serves go on with another one.
func (r *Relay) SetHealth(s *Service, i int, up bool) {
	r.health.mu.Lock()
	_, again := r.health.probed[serverKey{s, i}]
	if again = again && !up; up {
		delete(r.health.probed, serverKey{s, i})
		delete(r.health.failed, serverKey{s, i})
	} else {
		r.health.probed[serverKey{s, i}] = r.health.now()
	}
	r.health.mu.Unlock()
	r.Each(func(c *Conn) {
		// That it still fails is news only for who has tried it in its need.
		if c.svc == s && s.Kept && (!again || c.gauge.orphan.Load()) {
			r.sched.add(c, false)
		}
	})
}
