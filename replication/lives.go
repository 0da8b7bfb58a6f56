package replication

import (
	"math"
	"slices"
)

// lives is what has been decided, on the active and in the store alike.
type lives struct {
	byID   map[LifeID]*life
	all    list[life] // in order of beginning
	untold list[life] // the standby that has joined is to be told these
	size   int        // sum of life.size
}

// life is one of them.
type life struct {
	id      LifeID
	name    string
	next    uint64            // number of the next decision
	held    uint64            // decisions below it may be told; of the active
	decided []decided         // by number
	numbers map[string]uint64 // by key
	gone    int               // of decided: forgotten
	size    int               // sum of sizeOf
	full    bool              // a limit has refused a decision, and will refuse all that come
	at      link[life]
	untold  link[life]
}

type decided struct {
	number    uint64
	key       string
	value     []byte
	forgotten bool
}

const (
	// perDecided is what a decision takes beside its key and its value, bytes, roughly; on the wire it is less.
	perDecided = 128
	maxNumber  = math.MaxUint64
)

// sizeOf is what a decision counts for.
func sizeOf(key, value int) int { return key + value + perDecided }

func lifeAt(l *life) *link[life]     { return &l.at }
func lifeUntold(l *life) *link[life] { return &l.untold }

func (t *lives) init() { *t = lives{byID: map[LifeID]*life{}} }

func (t *lives) begin(id LifeID, name string) *life {
	l := &life{id: id, name: name, numbers: map[string]uint64{}}
	t.byID[id] = l
	t.all.pushBack(l, lifeAt)
	return l
}

// add adds a decision, and returns a copy of its value.
func (t *lives) add(l *life, key string, value []byte) []byte {
	value = slices.Clone(value)
	l.decided = append(l.decided, decided{number: l.next, key: key, value: value})
	l.numbers[key] = l.next
	l.next++
	size := sizeOf(len(key), len(value))
	l.size += size
	t.size += size
	return value
}

// find is what was decided for a key, nil if nothing.
func (l *life) find(key string) *decided {
	n, ok := l.numbers[key]
	if !ok {
		return nil
	}
	return l.nth(n)
}

// nth is the decision of that number, nil if it is forgotten.
func (l *life) nth(number uint64) *decided {
	i, ok := slices.BinarySearchFunc(l.decided, number, func(d decided, n uint64) int {
		switch {
		case d.number < n:
			return -1
		case d.number > n:
			return 1
		}
		return 0
	})
	if !ok || l.decided[i].forgotten {
		return nil
	}
	return &l.decided[i]
}

// forget reports whether there is such a decision.
func (t *lives) forget(l *life, number uint64) bool {
	d := l.nth(number)
	if d == nil {
		return false
	}
	size := sizeOf(len(d.key), len(d.value))
	l.size -= size
	t.size -= size
	delete(l.numbers, d.key)
	*d = decided{number: number, forgotten: true}
	if l.gone++; l.gone > 32 && l.gone*2 > len(l.decided) {
		l.decided = slices.DeleteFunc(l.decided, func(d decided) bool { return d.forgotten })
		l.gone = 0
	}
	return true
}

func (t *lives) end(l *life) {
	delete(t.byID, l.id)
	t.all.remove(l, lifeAt)
	t.untold.remove(l, lifeUntold)
	t.size -= l.size
}

// queue makes all lives untold, or none.
func (t *lives) queue(all bool) {
	for t.untold.first != nil {
		t.untold.remove(t.untold.first, lifeUntold)
	}
	for l := t.all.first; l != nil && all; l = l.at.next {
		t.untold.pushBack(l, lifeUntold)
	}
}

// continued is the table of a standby that takes over: nobody else can tell other results.
func (t *lives) continued() lives {
	for l := t.all.first; l != nil; l = l.at.next {
		l.held = l.next
	}
	c := *t
	t.init()
	return c
}

// check verifies what is counted, and that the keys are those of the decisions.
func (t *lives) check(joined bool) error {
	n, size, untold := 0, 0, 0
	for l := t.all.first; l != nil; l = l.at.next {
		n++
		size += l.size
		if l.untold.in {
			untold++
		}
		if err := l.check(); err != nil {
			return err
		}
		if t.byID[l.id] != l || l.held > l.next {
			return broken("life %d: %d decisions, %d held", l.id, l.next, l.held)
		}
		if !joined && l.held < l.next {
			return broken("life %d: without a standby %d of %d decisions are held", l.id, l.held, l.next)
		}
	}
	if n != len(t.byID) || n != t.all.n || size != t.size || untold != t.untold.n || untold > 0 && !joined {
		return broken("%d lives of %d bytes, %d untold, joined %v; kept %d, %d, %d", n, size, untold, joined, len(t.byID), t.size, t.untold.n)
	}
	return nil
}

func (l *life) check() error {
	size, gone, next := 0, 0, uint64(0)
	for i := range l.decided {
		d := &l.decided[i]
		if d.number < next {
			return broken("life %d: decision %d after %d", l.id, d.number, next)
		}
		if next = d.number + 1; d.forgotten {
			gone++
			continue
		}
		size += sizeOf(len(d.key), len(d.value))
		if n, ok := l.numbers[d.key]; !ok || n != d.number {
			return broken("life %d: decision %d is not found by its key", l.id, d.number)
		}
	}
	if size != l.size || gone != l.gone || next > l.next || len(l.numbers) != len(l.decided)-gone {
		return broken("life %d: %d bytes, %d forgotten, up to %d; kept %d, %d, %d", l.id, size, gone, next, l.size, l.gone, l.next)
	}
	return nil
}
