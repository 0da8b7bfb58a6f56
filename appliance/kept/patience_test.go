package kept

import (
	"testing"
	"time"
)

// A server that gets on with a request that it is told again is not given up, however long it takes. One that only gets to where
// another one has been, or stands still, is.
func TestGain(t *testing.T) {
	var g gain
	for i, x := range []struct {
		lost, now time.Duration
		got       uint64
		want      time.Duration
	}{
		{10, 11, 0, 10},
		{10, 20, 0, 10},
		{10, 30, 5, 30},
		{10, 50, 5, 30},
		{10, 60, 3, 30}, // the next one, from the beginning
		{10, 70, 5, 30},
		{10, 80, 6, 80},
		{90, 95, 4, 90}, // another source was lost
		{90, 99, 5, 99},
	} {
		g.begin(x.lost, 7)
		if got := g.since(x.now, x.got); got != x.want {
			t.Errorf("%d: since %d, want %d", i, got, x.want)
		}
	}
}

// Who is judged by a look that comes late, because this process had no CPU, has its time once more: what it has said waits to be
// read. Not for ever: a server that says nothing is found out on the busiest machine, too.
func TestLateLooks(t *testing.T) {
	const patience = 30 * time.Second
	for _, c := range []struct {
		what string
		wait time.Duration
		// begin starts a wait, which ends with over.
		begin func(now time.Duration) (over func(now time.Duration) (bool, time.Duration))
	}{
		{"a silent source", silentMin, func(now time.Duration) func(time.Duration) (bool, time.Duration) {
			q := quiet{}
			q.over(now, 7)
			return func(now time.Duration) (bool, time.Duration) { return q.over(now, 7) }
		}},
		{"a dialled server", dialAnswer, func(now time.Duration) func(time.Duration) (bool, time.Duration) {
			d := dialling{since: now}
			return func(now time.Duration) (bool, time.Duration) { over := d.over(now); return over, d.since + dialAnswer }
		}},
		{"nobody to go on", patience, func(now time.Duration) func(time.Duration) (bool, time.Duration) {
			var g gain
			g.begin(now, 7)
			g.ends(now, 0, patience)
			return func(now time.Duration) (bool, time.Duration) {
				over := g.ends(now, 0, patience)
				return now >= over, over
			}
		}},
	} {
		over := c.begin(time.Hour)
		if is, _ := over(time.Hour + c.wait - 1); is {
			t.Errorf("%s: too early", c.what)
		}
		if is, _ := over(time.Hour + c.wait + c.wait/100); !is {
			t.Errorf("%s: not over", c.what)
		}
		over = c.begin(time.Hour)
		due := time.Hour + c.wait
		for i := range lateLooks {
			now := due + time.Minute
			is, next := over(now)
			if is || next <= now || next > now+c.wait {
				t.Fatalf("%s: late look %d: over %v, next %v", c.what, i, is, next-now)
			}
			if is, _ := over(next - 1); is {
				t.Fatalf("%s: over before its time", c.what)
			}
			due = next
		}
		if is, _ := over(due + time.Minute); !is {
			t.Errorf("%s: still not over after %d late looks", c.what, lateLooks)
		}
		over = c.begin(time.Hour)
		_, next := over(time.Hour + c.wait + time.Minute)
		if is, _ := over(next + 1); !is {
			t.Errorf("%s: not over when looked at in time", c.what)
		}
	}
}

// A source that is slow again and again is waited for the longer, within a limit.
func TestQuietGrows(t *testing.T) {
	var q quiet
	now := time.Hour
	for i, want := 0, silentMin; i < 10; i, want = i+1, min(2*want, silentMax) {
		q.since = 0
		if _, next := q.over(now, 1); next != now+want {
			t.Fatalf("%d: waited for %v, want %v", i, next-now, want)
		}
		if over, _ := q.over(now+want-1, 1); over {
			t.Fatalf("%d: too early", i)
		}
		if over, _ := q.over(now+want, 1); !over {
			t.Fatalf("%d: not over", i)
		}
		now += time.Minute
	}
	q.since = 0
	q.over(now, 1)
	if over, next := q.over(now+time.Hour, 2); over || next <= now+time.Hour {
		t.Error("its server takes the request")
	}
}
