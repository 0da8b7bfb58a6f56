// Package traffic is TCP load that checks itself: a client and a server that exchange
// position-coded bytes over any connections, verify every one and measure the longest silence.
//
// It owns the little protocol between the two (a request in front of each connection that tells
// the server what to do) and the measuring. It must not know what lies between client and
// server, nor how the network was built: it gets a dial function and listeners. Only roles.go,
// which makes the two available as processes in a lab, knows the lab.
package traffic

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Mode of a connection.
type Mode string

const (
	// Stream: Up.Size bytes to the server and Down.Size bytes to the client, at the same time
	// unless Close says otherwise.
	Stream Mode = "stream"
	// Rounds: requests and responses in turn, on one connection.
	Rounds Mode = "rounds"
	// query asks the server about an earlier connection.
	query Mode = "query"
)

// Close is how a Stream ends.
type Close string

const (
	// Report: the server sends a report after both flows are complete, and closes.
	Report Close = ""
	// ClientFirst: the client shuts its side after its last byte; only then the server sends
	// Down.Size bytes and the report through the half-closed connection.
	ClientFirst Close = "client-first"
	// ServerFirst: the server sends Down.Size bytes and shuts its side; only then the client
	// sends Up.Size bytes. The report is fetched over a second connection.
	ServerFirst Close = "server-first"
)

// Flow is one direction of a Stream.
type Flow struct {
	Size int64 `json:"size"` // bytes
	// Chunk is how many bytes one write has; 0 chooses by Size. At most 1 MiB.
	Chunk int `json:"chunk,omitempty"`
	// Pace is the time from one write to the next; 0 is as fast as possible. Up to PaceAfter
	// bytes the flow is as fast as possible all the same.
	Pace      time.Duration `json:"pace,omitempty"`
	PaceAfter int64         `json:"pace_after,omitempty"`
	// The receiver stops reading for StallFor once it has StallAfter bytes, so that its window
	// closes.
	StallAfter int64         `json:"stall_after,omitempty"`
	StallFor   time.Duration `json:"stall_for,omitempty"`
}

// Request is the first thing on a connection: what it is to carry.
type Request struct {
	ID    uint64 `json:"id"` // 0: the client chooses one
	Mode  Mode   `json:"mode"`
	Seed  uint64 `json:"seed"` // 0: the ID
	Up    Flow   `json:"up"`
	Down  Flow   `json:"down"`
	Close Close  `json:"close,omitempty"`

	// Rounds: how many (0: one at first and one at the end, with one per Interval in between
	// if that is set), sizes in bytes (1 to 1 MiB), pause between rounds.
	Rounds       int           `json:"rounds,omitempty"`
	RequestSize  int           `json:"request_size,omitempty"`
	ResponseSize int           `json:"response_size,omitempty"`
	Interval     time.Duration `json:"interval,omitempty"`

	// Congestion control of both ends; empty: the kernel's default.
	Congestion string `json:"congestion,omitempty"`
	// Repeatable makes the server's output depend on the request alone: its report holds
	// no measurements, so that two servers send the same. What is known of gaps in an upload
	// is then the client's view.
	Repeatable bool `json:"repeatable,omitempty"`
	// NoVerify receives without looking, for benchmarks.
	NoVerify bool `json:"no_verify,omitempty"`
}

// Download of size bytes.
func Download(size int64) Request { return Request{Mode: Stream, Down: Flow{Size: size}} }

// Upload of size bytes.
func Upload(size int64) Request { return Request{Mode: Stream, Up: Flow{Size: size}} }

// Both directions at once, size bytes each.
func Both(size int64) Request {
	return Request{Mode: Stream, Up: Flow{Size: size}, Down: Flow{Size: size}}
}

// PingPong is n rounds of a request and a response.
func PingPong(n, requestSize, responseSize int) Request {
	return Request{Mode: Rounds, Rounds: n, RequestSize: requestSize, ResponseSize: responseSize}
}

// Idle is a connection that is merely open: one round trip of a byte at first, one per interval
// if that is not 0, and one when Client.Finish is closed, which proves that it is still usable.
func Idle(interval time.Duration) Request {
	return Request{Mode: Rounds, RequestSize: 1, ResponseSize: 1, Interval: interval}
}

const (
	magic        = 0x4c535452 // "LSTR"
	maxHeader    = 4 << 10    // bytes of JSON
	maxChunk     = 1 << 20    // bytes
	defaultChunk = 256 << 10  // bytes
)

func (r Request) check() error {
	switch r.Mode {
	case Stream, Rounds, query:
	default:
		return fmt.Errorf("request: unknown mode %q", r.Mode)
	}
	switch r.Close {
	case Report, ClientFirst, ServerFirst:
	default:
		return fmt.Errorf("request: unknown close %q", r.Close)
	}
	for _, f := range []Flow{r.Up, r.Down} {
		if f.Size < 0 || f.Chunk < 0 || f.Chunk > maxChunk || f.Pace < 0 || f.PaceAfter < 0 || f.StallFor < 0 || f.StallAfter < 0 {
			return fmt.Errorf("request: flow %+v out of range", f)
		}
	}
	if r.Mode == Rounds {
		for _, n := range []int{r.RequestSize, r.ResponseSize} {
			if n < 1 || n > maxChunk {
				return fmt.Errorf("request: a round of %d bytes is not within 1 to %d", n, maxChunk)
			}
		}
	}
	if r.Rounds < 0 || r.Interval < 0 {
		return errors.New("request: negative rounds or interval")
	}
	return nil
}

// chunk is the size of the buffer for a flow.
func (f Flow) chunk() int {
	if f.Chunk > 0 {
		return f.Chunk
	}
	return int(min(max(f.Size, 1), defaultChunk))
}

// ServerReport is what the server saw of a connection.
type ServerReport struct {
	ID       uint64 `json:"id"`
	Known    bool   `json:"known"` // false: no such connection, or not ended yet
	Received int64  `json:"received"`
	Sent     int64  `json:"sent"`
	Intact   bool   `json:"intact"`
	Error    string `json:"error,omitempty"`
	Corrupt  bool   `json:"corrupt,omitempty"` // bytes that arrived were wrong
	Up       Gap    `json:"up"`
	Ups      []Gap  `json:"ups,omitempty"` // of a Stream: the longest ones
}

// writeMessage sends a length-prefixed JSON value in one write; prefix precedes the length.
func writeMessage(w io.Writer, prefix []byte, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if len(body) > maxHeader {
		return fmt.Errorf("message of %d bytes is too long", len(body))
	}
	b := binary.BigEndian.AppendUint32(append([]byte(nil), prefix...), uint32(len(body)))
	_, err = w.Write(append(b, body...))
	return err
}

func readMessage(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("read message length: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxHeader {
		return fmt.Errorf("message of %d bytes announced, limit %d", n, maxHeader)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return fmt.Errorf("read message: %w", err)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("decode message: %w", err)
	}
	return nil
}

// requestMagic precedes a request.
func requestMagic() []byte { return binary.BigEndian.AppendUint32(nil, magic) }

func writeRequest(w io.Writer, r Request) error { return writeMessage(w, requestMagic(), r) }

func readRequest(rd io.Reader) (r Request, err error) {
	var head [4]byte
	if _, err := io.ReadFull(rd, head[:]); err != nil {
		return r, fmt.Errorf("read request: %w", err)
	}
	if binary.BigEndian.Uint32(head[:]) != magic {
		return r, fmt.Errorf("read request: %x is no request", head)
	}
	if err := readMessage(rd, &r); err != nil {
		return r, fmt.Errorf("read request: %w", err)
	}
	return r, r.check()
}
