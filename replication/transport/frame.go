package transport

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"

	"lockstep/replication/wire"
)

// firstBuffer is the read buffer of a session that never sees a larger frame.
const firstBuffer = 64 << 10

// FrameReader cuts a byte stream into frames. Its buffer is reused: a frame is
// valid only until the handler returns.
type FrameReader struct {
	R   io.Reader
	Max int // the longest frame taken, bytes; 0: wire.MaxFrame

	buf        []byte
	start, end int // buf[start:end] is read and not yet delivered
}

// Run delivers frames until the stream or the handler ends it. The result is
// never nil.
func (f *FrameReader) Run(handle func(frame []byte) error) *Error {
	if f.buf == nil {
		f.buf = make([]byte, firstBuffer)
	}
	for {
		if err := f.deliver(handle); err != nil {
			return err
		}
		n, err := f.R.Read(f.buf[f.end:])
		f.end += n
		if err == nil {
			continue
		}
		// Bytes may come together with the error; whole frames among them count.
		if bad := f.deliver(handle); bad != nil {
			return bad
		}
		return f.ended(err)
	}
}

// deliver hands every whole frame in the buffer to the handler and makes room
// for more of an unfinished one.
func (f *FrameReader) deliver(handle func(frame []byte) error) *Error {
	need := wire.HeaderLen
	for f.end-f.start >= wire.HeaderLen {
		n, err := wire.FrameLen(f.buf[f.start : f.start+wire.HeaderLen])
		switch {
		case errors.Is(err, wire.ErrTooLarge):
			return &Error{Reason: ClosedTooLong, Err: err}
		case err != nil:
			return &Error{Reason: ClosedBadFrame, Err: err}
		case f.Max > 0 && n > f.Max:
			return &Error{Reason: ClosedTooLong, Detail: fmt.Sprintf("a frame of %d bytes", n)}
		}
		if need = n; f.end-f.start < n {
			break
		}
		if err := handle(f.buf[f.start : f.start+n : f.start+n]); err != nil {
			return &Error{Reason: ClosedBadFrame, Err: err}
		}
		f.start += n
		need = wire.HeaderLen
	}
	f.room(need)
	return nil
}

// room makes place for the rest of a frame of need bytes. The buffer at most
// doubles each time it is full, so a claimed length costs no memory until the
// bytes are there.
func (f *FrameReader) room(need int) {
	if f.start == f.end {
		f.start, f.end = 0, 0
	}
	if f.start > 0 && f.start+need > len(f.buf) {
		copy(f.buf, f.buf[f.start:f.end])
		f.start, f.end = 0, f.end-f.start
	}
	if f.end == len(f.buf) {
		grown := make([]byte, min(2*len(f.buf), max(need, len(f.buf)+1)))
		copy(grown, f.buf[:f.end])
		f.buf = grown
	}
}

// ended classifies the error that ended the stream.
func (f *FrameReader) ended(err error) *Error {
	var alert tls.AlertError
	var record tls.RecordHeaderError
	var netErr net.Error
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		if f.end > f.start || errors.Is(err, io.ErrUnexpectedEOF) {
			return &Error{Reason: ClosedCut, Detail: fmt.Sprintf("%d bytes of an unfinished frame", f.end-f.start), Err: err}
		}
		return &Error{Reason: ClosedByPeer}
	case errors.As(err, &alert), errors.As(err, &record):
		return &Error{Reason: ClosedCorrupt, Err: err}
	case errors.As(err, &netErr) && !isTLS(err):
		return &Error{Reason: ClosedReceive, Err: err}
	}
	return &Error{Reason: ClosedCorrupt, Err: err}
}

// isTLS tells crypto/tls's own verdicts, which it reports as a *net.OpError
// without an address ("local error: tls: ..."), from the socket's errors.
func isTLS(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && (op.Op == "local error" || op.Op == "remote error")
}
