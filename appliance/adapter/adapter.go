package adapter

import "fmt"

// Adapter follows one connection's two streams. Offsets are counted in bytes from the
// stream's start. It is not safe for concurrent use. An adapter never keeps the
// slices that it is given.
//
// Each server's output needs an adapter of its own that follows it, also that of a
// replica which is only compared: spans to mask are found in its own bytes. All of
// them are given the same request stream. What an adapter says depends on the two
// streams alone, not on how they are cut into slices, as long as a request's bytes
// are given before those of the response to it.
type Adapter interface {
	// Request takes the next bytes of the request stream, each byte once.
	Request(b []byte)

	// RequestEnd says that the client has sent its FIN: the request stream ends here.
	RequestEnd()

	// Response takes the next bytes of the response stream, as they are released to
	// the client, and returns how many of them belong to one piece: at least one if
	// len(b) > 0. A piece ends where a checkpoint may be. The caller asks Checkpoint
	// and calls again with the rest.
	Response(b []byte) (n int)

	// Checkpoint says whether, after the bytes given so far, every request before
	// offset req has been answered completely and nothing of the request stream
	// from req on has been answered. Then a replacement server may be given the
	// request stream from req on, and its output begins at the current offset of the
	// response. Without ok, req has no meaning. More requests than those before req
	// may have been given; what was ok stays ok while only Request is called. It may also become ok by
	// Request, when a response came before its request's end.
	Checkpoint() (req uint64, ok bool)

	// Releasable says how many of the next bytes b of the response, which follow
	// those given to Response, may be released now. The head of a message (also of an
	// interim response, and a trailer section) is released whole, so that a switch of
	// servers never happens within a header field; of a head that is not whole
	// nothing is released. A head of more than MaxHead bytes makes the stream opaque,
	// and is released like anything else.
	//
	// end says that the server's stream ends after b. Then n < len(b) only if End
	// says Premature after Response has been given b[:n]: the rest is a torn head.
	// The caller replaces the server, or has none and releases the rest as it is.
	Releasable(b []byte, end bool) (n int)

	// Mask appends to dst the spans of b whose values differ by nature between two
	// correct servers, as [from, to) relative to b, in rising order, not empty, and
	// not touching each other. b are the next bytes of the response, from anywhere
	// on. A span that is cut by the end of b continues at the beginning of the next
	// slice; a caller who hashes should replace each masked byte by a constant, so
	// that the cut does not matter.
	//
	// Responses are compared by position. So two masked values are equal only if
	// they are equally long; else all that follows is shifted, and differs.
	Mask(dst [][2]int, b []byte) [][2]int

	// End judges a server's FIN at the current offset of the response.
	End() Verdict

	// State appends to dst what another appliance needs to go on from here: at most
	// MaxState bytes, none for Raw.
	State(dst []byte) []byte

	// Restore brings a new adapter to where State was called. The request stream is
	// then to be given again, from offset at on, before any more of the response is;
	// at may be any offset not above the last checkpoint's, or above it up to the
	// start of the request whose response is under way: what is not needed is
	// skipped. RequestEnd must be repeated too. A state from a checkpoint's offset
	// serves for a replacement server. Restore refuses what State cannot have
	// written, and the adapter is then as new.
	Restore(state []byte, at uint64) error
}

// MaxState is the greatest length of a state in bytes.
const MaxState = 64

// Verdict is what an adapter thinks of a server's FIN.
type Verdict uint8

// Verdicts.
const (
	// Unknown: the protocol does not tell. The body is delimited by the FIN itself,
	// or the stream is opaque, or the client has ended its stream and a server may
	// then drop the requests that it has not answered.
	Unknown Verdict = iota
	// Complete: nothing is owed. All requests are answered, or the last response
	// announced that it is the connection's last and is complete.
	Complete
	// Premature: the current response's framing says that more is to come, or a
	// request is unanswered.
	Premature
)

func (v Verdict) String() string {
	switch v {
	case Unknown:
		return "unknown"
	case Complete:
		return "complete"
	case Premature:
		return "premature"
	}
	return fmt.Sprintf("Verdict(%d)", uint8(v))
}

// Raw is the adapter of protocols that are not understood: never a checkpoint, no
// verdict, nothing masked, everything released at once. Servers must answer
// deterministically, and a replacement is given the request stream from its start.
type Raw struct{}

var _ Adapter = Raw{}

// Request implements Adapter.
func (Raw) Request([]byte) {}

// RequestEnd implements Adapter.
func (Raw) RequestEnd() {}

// Response implements Adapter: everything is one piece.
func (Raw) Response(b []byte) int { return len(b) }

// Checkpoint implements Adapter: there is none, not even at the start.
func (Raw) Checkpoint() (uint64, bool) { return 0, false }

// Releasable implements Adapter.
func (Raw) Releasable(b []byte, _ bool) int { return len(b) }

// Mask implements Adapter.
func (Raw) Mask(dst [][2]int, _ []byte) [][2]int { return dst }

// End implements Adapter.
func (Raw) End() Verdict { return Unknown }

// State implements Adapter: there is none.
func (Raw) State(dst []byte) []byte { return dst }

// Restore implements Adapter.
func (Raw) Restore(state []byte, _ uint64) error {
	if len(state) != 0 {
		return fmt.Errorf("restore a raw connection: %w: %d bytes, want none", ErrState, len(state))
	}
	return nil
}
