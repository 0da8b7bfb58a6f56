package bench

import (
	"context"
	"fmt"
	"time"

	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
	"lockstep/internal/pair"
)

const (
	// idleTimeout bounds how long the idle connections may take to open, and to answer at the end.
	idleTimeout = 60 * time.Second
	// settleFor: memory counts when it has not grown or shrunk by more than settleBy for so long.
	settleFor   = 600 * time.Millisecond
	settleLimit = 3 * time.Second
	settlePoll  = 100 * time.Millisecond
	settleBy    = 256 << 10 // bytes
)

// idlers are idle connections through a gateway.
type idlers struct {
	n      int
	client *lab.RoleProc
}

// openIdle opens n connections that do one round trip and then nothing.
func (b *bed) openIdle(ctx context.Context, n int) (*idlers, error) {
	client, err := b.checkedClient(traffic.ClientArgs{
		Requests: []traffic.Batch{{Count: n, Request: traffic.Idle(0)}}, Patience: 30 * time.Second,
	})
	if err != nil {
		return nil, err
	}
	if err := awaitOpen(ctx, client, idleTimeout); err != nil {
		client.Finish()
		return nil, fmt.Errorf("open %d idle connections: %w", n, err)
	}
	return &idlers{n, client}, nil
}

// awaitOpen waits until all connections of a traffic client are established.
func awaitOpen(ctx context.Context, client *lab.RoleProc, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		var e traffic.ClientEvent
		if err := client.Next(ctx, &e); err != nil {
			return err
		}
		if e.Summary != nil {
			return fmt.Errorf("%d of %d failed: %v", e.Summary.Lost, e.Summary.Connections, e.Summary.Errors)
		}
		if e.AllOpen {
			return nil
		}
	}
}

// awaitSummary waits for the end of a traffic client.
func awaitSummary(ctx context.Context, client *lab.RoleProc, limit time.Duration) (e traffic.ClientEvent, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for e.Summary == nil {
		e = traffic.ClientEvent{}
		if err := client.Next(ctx, &e); err != nil {
			return e, err
		}
	}
	return e, nil
}

// finish asks every idle connection for one more round trip, and tells how many did not answer.
func (i *idlers) finish(ctx context.Context) (lost int, first string, err error) {
	if err := i.client.Send(traffic.FinishMessage); err != nil {
		return i.n, "", err
	}
	e, err := awaitSummary(ctx, i.client, idleTimeout)
	if err != nil {
		return i.n, "", err
	}
	if len(e.Summary.Errors) > 0 {
		first = e.Summary.Errors[0]
	}
	return e.Summary.Lost, first, nil
}

// memory is the resident memory of each process of the gateway, once it has settled: a Go process
// collects garbage and gives memory back some time after the work.
func (b *bed) memory(ctx context.Context) ([]int64, error) {
	begin := time.Now()
	last, since := []int64(nil), begin
	for {
		var now []int64
		for _, p := range b.gateway.processes() {
			m, err := residentMemory(p.PID())
			if err != nil {
				return nil, err
			}
			now = append(now, m)
		}
		if last == nil || moved(last, now) {
			last, since = now, time.Now()
		}
		if time.Since(since) >= settleFor || time.Since(begin) >= settleLimit {
			return now, nil
		}
		if err := lab.Pause(ctx, settlePoll); err != nil {
			return nil, err
		}
	}
}

// rest waits until all connections that are ended in the gateway are parked, where it does that.
func (b *bed) rest(ctx context.Context, limit time.Duration) error {
	g, ok := b.gateway.(*applianceGateway)
	if !ok {
		return nil
	}
	_, err := pair.Await(ctx, limit, "idle connections are parked", func(s []control.Status) bool {
		for _, svc := range s[0].Services {
			if svc.Parked < svc.Terminated {
				return false
			}
		}
		return true
	}, g.nodes[0])
	return err
}

// growth is by how much something has grown, KiB per connection.
type growth struct {
	processes []float64 // of the gateway
	kernel    float64   // at all ends, which are on one machine
}

// openMeasured opens n idle connections and returns what has grown when they have come to rest.
func (b *bed) openMeasured(ctx context.Context, n int) (i *idlers, grown growth, err error) {
	before, err := b.memory(ctx)
	if err != nil {
		return nil, grown, err
	}
	kernel, err := kernelMemory()
	if err != nil {
		return nil, grown, err
	}
	if i, err = b.openIdle(ctx, n); err != nil {
		return nil, grown, err
	}
	err = b.rest(ctx, idleTimeout)
	var after []int64
	if err == nil {
		after, err = b.memory(ctx)
	}
	var most int64
	if err == nil {
		most, err = kernelMemory()
	}
	if err != nil {
		i.client.Finish()
		return nil, grown, err
	}
	for k := range before {
		grown.processes = append(grown.processes, kibEach(before[k], after[k], n))
	}
	grown.kernel = kibEach(kernel, most, n)
	return i, grown, nil
}

// idleMemory is openMeasured with proof that the connections work.
func (b *bed) idleMemory(ctx context.Context, n int) (growth, error) {
	idle, grown, err := b.openMeasured(ctx, n)
	if err != nil {
		return grown, err
	}
	defer idle.client.Finish()
	lost, why, err := idle.finish(ctx)
	if err == nil && lost > 0 {
		err = fmt.Errorf("%w: %d of %d idle connections did not answer, the first: %s", errLoad, lost, n, why)
	}
	return grown, err
}

func moved(a, b []int64) bool {
	for i := range a {
		if d := a[i] - b[i]; d > settleBy || d < -settleBy {
			return true
		}
	}
	return false
}

// kibEach is the growth per connection.
func kibEach(before, after int64, n int) float64 {
	return float64(after-before) / 1024 / float64(n)
}
