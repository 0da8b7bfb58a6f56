package replication_test

import (
	"errors"
	"fmt"
	"net/netip"

	"lockstep/replication"
	"lockstep/replication/wire"
)

// exchange carries frames to and fro until neither side has any, and does what the active wants
// done. A program would write them to a connection.
func exchange(now replication.Nanos, active, standby *replication.Core) error {
	for {
		there, back := active.Flush(nil), standby.Flush(nil)
		if len(there)+len(back) == 0 {
			return nil
		}
		if err := errors.Join(give(now, standby, there), give(now, active, back)); err != nil {
			return err
		}
		ready := active.Ready()
		for _, id := range ready.Opened {
			fmt.Println("connection", id, "is known to the standby: the client may have its SYN-ACK")
		}
		for _, p := range ready.Permits {
			fmt.Println("connection", p.ID, p.Stream, "may be acknowledged up to", p.Off)
		}
	}
}

func give(now replication.Nanos, to *replication.Core, stream []byte) error {
	for len(stream) > 0 {
		n, err := wire.FrameLen(stream)
		if err != nil {
			return err
		}
		if err := to.Step(now, stream[:n]); err != nil {
			return err
		}
		stream = stream[n:]
	}
	return nil
}

// Of a request's bytes nothing may be acknowledged before the standby holds them; when the active
// has died the standby goes on with what it holds.
func Example() {
	active, standby := replication.New(replication.Limits{}), replication.New(replication.Limits{})
	err := active.SetRole(replication.RoleActive, 1)
	if err == nil {
		err = standby.SetRole(replication.RoleStandby, 1)
	}
	for _, c := range []*replication.Core{active, standby} {
		if err == nil {
			err = c.PeerJoined(0, wire.Version)
		}
	}
	if err == nil {
		err = exchange(0, active, standby)
	}
	fmt.Println("in sync:", standby.InSync(), err)

	leg := func(local, remote string) replication.LegRecord {
		return replication.LegRecord{
			Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote),
			ISS: 1000, IRS: 2000, MSS: 1460, OurMSS: 1460, PeerWS: 7, OurWS: 7, SACK: true,
		}
	}
	err = active.Open(0, &replication.Record{
		ID: 1, Service: "web",
		Client: leg("203.0.113.10:80", "198.51.100.7:40000"), Server: leg("198.51.100.7:40000", "10.20.0.11:8080"),
	})
	if err == nil {
		err = active.Data(0, 1, replication.Request, 0, []byte("GET /"), false)
	}
	if err == nil {
		err = exchange(0, active, standby)
	}
	if err != nil {
		fmt.Println(err)
	}

	standby.PeerLost()
	all, err := standby.Takeover(2)
	if err != nil {
		fmt.Println(err)
	}
	for _, c := range all {
		fmt.Printf("goes on with connection %d: %s\n", c.Record.ID, c.Streams[replication.Request].Bytes)
	}
	// Output:
	// in sync: true <nil>
	// connection 1 is known to the standby: the client may have its SYN-ACK
	// connection 1 request may be acknowledged up to 5
	// goes on with connection 1: [GET /]
}
