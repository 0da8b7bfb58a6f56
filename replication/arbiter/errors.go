package arbiter

import "fmt"

// Error is a constant error.
type Error string

func (e Error) Error() string { return string(e) }

// Errors of New, Step, AddStandby and Yield, to be compared with errors.Is.
const (
	ErrConfig    Error = "arbiter: wrong configuration"
	ErrStored    Error = "arbiter: the stored state cannot be used; if it is lost for good, move the file away: this voter then takes part again once it has heard from both others"
	ErrUnknown   Error = "arbiter: message of somebody who is no voter"
	ErrGone      Error = "arbiter: message of a process that is known to be dead"
	ErrMalformed Error = "arbiter: malformed message"
	ErrContra    Error = "arbiter: message contradicts what this voter holds"
	ErrNotActive Error = "arbiter: not the active, or not its leader at the moment"
	ErrStandby   Error = "arbiter: not the standby in sync"
)

// silent is raft's logger. What raft logs follows from State and Counters; what it
// calls a panic is one.
type silent struct{}

func (silent) Debug(...any)            {}
func (silent) Debugf(string, ...any)   {}
func (silent) Error(...any)            {}
func (silent) Errorf(string, ...any)   {}
func (silent) Info(...any)             {}
func (silent) Infof(string, ...any)    {}
func (silent) Warning(...any)          {}
func (silent) Warningf(string, ...any) {}
func (silent) Fatal(v ...any)          { panic("raft: " + fmt.Sprint(v...)) }
func (silent) Fatalf(f string, v ...any) {
	panic("raft: " + fmt.Sprintf(f, v...))
}
func (silent) Panic(v ...any)            { panic("raft: " + fmt.Sprint(v...)) }
func (silent) Panicf(f string, v ...any) { panic("raft: " + fmt.Sprintf(f, v...)) }
