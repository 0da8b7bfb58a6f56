package kept

import "time"

// What a server has not done in time is judged when a timer has run. If this process had no CPU, or was stopped, it looks late,
// and what the server has said waits to be read: then the server has its time once more.

// lateLooks is how often in a row: a server that says nothing must be found out on the busiest machine, too.
const lateLooks = 3

// leniency counts the looks that came late.
type leniency struct{ late int }

// forgives reports whether a wait that ended at due is to begin again, because it is looked at so much later; wait is how long it
// was, or what is enough of it.
func (l *leniency) forgives(now, due, wait time.Duration) bool {
	if now-due <= wait/2 || l.late == lateLooks {
		l.late = 0
		return false
	}
	l.late++
	return true
}

const (
	// silentMin is how long a server may be silent, at first, while another one that has
	// the same request goes on; silentMax bounds it.
	silentMin = 100 * time.Millisecond
	silentMax = 5 * time.Second
)

// quiet is how long the source has been silent while another one goes on.
type quiet struct {
	since time.Duration // 0: it is not
	acked uint64        // what its server had acknowledged of the request then
	limit time.Duration // 0: silentMin
	leniency
}

// over reports whether it has been too long, and when to look again if not. The more often that happens, the longer
// it is waited for the next time.
func (q *quiet) over(now time.Duration, acked uint64) (over bool, next time.Duration) {
	q.limit = max(q.limit, silentMin)
	switch due := q.since + q.limit; {
	case q.since == 0 || q.acked != acked:
		q.since, q.acked = now, acked
	case now < due:
	case q.forgives(now, due, q.limit):
		q.since = now
	default:
		q.limit = min(2*q.limit, silentMax)
		return true, 0
	}
	return false, q.since + q.limit
}

// dialling is how long a server has not answered its SYN.
type dialling struct {
	since time.Duration
	leniency
}

// over reports whether it has had its time.
func (d *dialling) over(now time.Duration) bool {
	due := d.since + dialAnswer
	if now <= due {
		return false
	}
	if d.forgives(now, due, dialAnswer) {
		d.since = now
		return false
	}
	return true
}

// gain is how far servers that are told a request again have got, since one was lost, and when. Who gets on is waited
// for: a response that took longer than patience takes as long again. It ends where the client is.
type gain struct {
	lost, at time.Duration
	got      uint64
	end      uint64 // of the request when the source was lost: a kernel takes what is said later, whatever its process does
	leniency
}

// begin is told of the loss that is waited with, as often as one likes, and of the request's end.
func (g *gain) begin(lost time.Duration, end uint64) {
	if g.lost != lost {
		*g = gain{lost: lost, end: end}
	}
}

// since is when the last of them got further than any before it; or when the source was lost.
func (g *gain) since(now time.Duration, got uint64) time.Duration {
	switch {
	case g.at == 0: // where they were
		g.at, g.got = g.lost, got
	case got > g.got:
		g.at, g.got = now, got
	}
	return g.at
}

// ends is when patience with them ends. A look that comes much later leaves the time that a dial takes.
func (g *gain) ends(now time.Duration, got uint64, patience time.Duration) time.Duration {
	over := g.since(now, got) + patience
	if short := min(dialAnswer, patience); now >= over && g.forgives(now, over, 2*short) {
		over = now + short
		g.at = over - patience
	}
	return over
}
