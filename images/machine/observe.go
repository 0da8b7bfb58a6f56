package machine

import (
	"context"
	"os/exec"
	"time"

	"lockstep/appliance/control"
)

const (
	lookEvery   = 2 * time.Second
	lookTimeout = 2 * time.Second
	// hungAfter is how long a program may leave its control socket unanswered. Connections do not wait
	// for this: a program that hangs has fallen silent, and the standby has taken over, long before.
	hungAfter = 15 * time.Second
	// firstAnswer is how long one that has just been started may take, on a machine that is emulated and
	// busy at that.
	firstAnswer = 2 * time.Minute
)

// watchProgram asks the program how it is, shows it, and kills one that does not answer any more:
// a new one joins the pair as its standby.
func (m *machine) watchProgram(ctx context.Context, j *job, cmd *exec.Cmd) {
	if j.control == "" {
		m.watchWitness(ctx)
		return
	}
	client := control.NewClient(j.control)
	defer client.Close()
	answered, patience := time.Now(), firstAnswer
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		asked, cancel := context.WithTimeout(ctx, lookTimeout)
		status, err := client.Status(asked)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			answered, patience = time.Now(), hungAfter
			m.screen.problem(nil)
			m.screen.status(m.opts.Render(&status))
		case time.Since(answered) > patience:
			m.log.Error("the program does not answer and is killed", "for", time.Since(answered).Round(time.Second), "err", err)
			_ = cmd.Process.Kill() // one that has ended is what we want
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// watchWitness shows that it runs; it has no control socket.
func (m *machine) watchWitness(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(lookEvery):
		m.screen.problem(nil)
		m.screen.status("witness      running\n")
		<-ctx.Done()
	}
}
