package roles

// Lease ties the permission to speak to the epoch whose connections are served. The
// voter's part of an appliance gives it, another part learns of the claim later and
// has to forget or to continue connections first. Between the two an appliance that
// was active before still has the connections of that epoch: with the new epoch's
// lease it must not say a word on them (invariant 4). T is a point in time; its zero
// value is none.
type Lease[T any] struct {
	granted, serving uint64 // epochs; 0: none
	until            T
}

// Grant is told by the voter's part: as the active of epoch we may speak before until.
func (l *Lease[T]) Grant(epoch uint64, until T) { l.granted, l.until = epoch, until }

// Of returns before when we may speak for epoch, whether we serve it yet or not; zero: not
// at all.
func (l *Lease[T]) Of(epoch uint64) T {
	var none T
	if l.granted != epoch {
		return none
	}
	return l.until
}

// Serve is told which epoch's connections are served from now on; 0: none.
func (l *Lease[T]) Serve(epoch uint64) { l.serving = epoch }

// Until returns before when we may speak; zero: not at all.
func (l *Lease[T]) Until() T { return l.Of(l.serving) }
