package replication

import "lockstep/replication/wire"

// The vocabulary shared with the sync link's format; see package wire.
type (
	ConnID    = wire.ConnID
	Stream    = wire.Stream
	CloseKind = wire.CloseKind
	LegRecord = wire.LegRecord
	Record    = wire.Record
	Digest    = wire.Digest
	Released  = wire.Released
	LifeID    = wire.LifeID
)

const (
	Request  = wire.Request
	Response = wire.Response

	Finished = wire.Finished
	Aborted  = wire.Aborted
)

// Nanos is a point in time or a span, nanoseconds. Points are counted from any
// fixed moment on a monotonic clock; the core only compares them.
type Nanos int64

// Never is a point in time that does not come.
const Never Nanos = 1<<63 - 1

const (
	microsecond Nanos = 1000
	millisecond Nanos = 1000 * microsecond
	second      Nanos = 1000 * millisecond
)

// Role is what this appliance is in the pair.
type Role uint8

const (
	RoleNone Role = iota
	RoleActive
	RoleStandby
)

func (r Role) String() string {
	switch r {
	case RoleNone:
		return "none"
	case RoleActive:
		return "active"
	case RoleStandby:
		return "standby"
	}
	return "role?"
}
