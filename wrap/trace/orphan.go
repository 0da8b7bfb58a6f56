//go:build amd64

package trace

import (
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// orphan has stopped, or ended, before the event that tells of it. Threads need no care: who is killed while he makes one is
// killed with all of them. A process's maker may be killed alone, and then that event never comes.
type orphan struct {
	thread, ended bool
	status        unix.WaitStatus
}

// unknown is a stop or the end of who is no task. Processes are made one at a time, so that without one in the making it is one
// whose maker is no more.
func (tr *Tracer) unknown(pid int, status unix.WaitStatus) {
	switch former, ok := tr.orphans[pid]; {
	case status.Stopped() && isThread(pid):
		tr.orphans[pid] = orphan{thread: true}
	case status.Stopped() && tr.forking != nil:
		tr.orphans[pid] = orphan{}
	case status.Stopped():
		_ = unix.Kill(pid, unix.SIGKILL) // it has ended, otherwise
	case tr.forking != nil && !(ok && former.thread):
		tr.orphans[pid] = orphan{ended: true, status: status} // or another child, which no event will tell of
	default:
		delete(tr.orphans, pid)
	}
}

// abandon kills processes whose makers were killed meanwhile: none has executed an instruction, and nobody knows it.
func (tr *Tracer) abandon() {
	for pid, o := range tr.orphans {
		if o.thread {
			continue
		}
		delete(tr.orphans, pid)
		if !o.ended {
			_ = unix.Kill(pid, unix.SIGKILL) // it has ended, otherwise
		}
	}
}

// isThread says whether a task that has not been waited for is one of several of its process.
func isThread(tid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	return err == nil && !bytes.Contains(status, fmt.Appendf(nil, "\nTgid:\t%d\n", tid))
}

func traced(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err == nil && !bytes.Contains(status, []byte("\nTracerPid:\t0\n"))
}
