package adapter

import (
	"fmt"
	"strings"
)

// Mask is a set of header field names whose values are not compared. It is immutable
// and may be shared by all connections. A nil Mask masks nothing.
type Mask struct {
	names map[string]struct{} // lower case
}

// maxNames bounds the names of a Mask.
const maxNames = 256

// DefaultMask are the names that are masked unless an operator says otherwise. What
// is in it differs between two correct servers by nature, and means nothing to a
// server that sees it come back:
//
//   - Date (RFC 9110 section 6.6.1) and Age (RFC 9111 section 5.1) tell the time.
//     Expires (RFC 9111 section 5.3) is usually computed from it.
//   - Server-Timing (W3C) and its forerunners X-Runtime and X-Response-Time say how
//     long this server took. Beware: the lengths of such values often differ, too.
//   - X-Request-Id and the like name this handling of the request, for its log.
//   - Keep-Alive: Apache's max counts down over a connection, so a replacement that
//     was started at a checkpoint is ahead. (100 and 99 differ in length: with
//     MaxKeepAliveRequests 0 the count is left out.)
//
// Not in it, on purpose: Set-Cookie, because a server must know again what it handed
// out; two servers that hand out different sessions are not equivalent, and the
// client would be left with one that its next server does not know. ETag and
// Last-Modified (RFC 9110 section 8.8), because they say which representation the
// body is: if they differ, so may the body. Whoever knows better adds them.
func DefaultMask() []string {
	return []string{
		"Date", "Age", "Expires", "Keep-Alive",
		"Server-Timing", "X-Runtime", "X-Response-Time",
		"X-Request-Id", "Request-Id", "X-Correlation-Id", "X-Trace-Id", "Traceparent", "Traceresponse",
		"X-Amzn-Trace-Id", "X-Amzn-RequestId", "X-Amz-Request-Id", "X-Amz-Id-2",
	}
}

// NewMask makes a mask of header field names, upper or lower case. It refuses what is
// no field name, a name of more than MaxName bytes, and a field that decides where
// messages end (a difference there is never harmless).
func NewMask(names []string) (*Mask, error) {
	if len(names) > maxNames {
		return nil, fmt.Errorf("mask header fields: %d names, at most %d are possible", len(names), maxNames)
	}
	m := &Mask{names: make(map[string]struct{}, len(names))}
	for _, name := range names {
		lower := strings.ToLower(name)
		if len(name) == 0 || len(name) > MaxName {
			return nil, fmt.Errorf("mask header field %.40q: a name has 1 to %d bytes", name, MaxName)
		}
		for i := range len(lower) {
			if !isToken(lower[i]) {
				return nil, fmt.Errorf("mask header field %q: not a field name", name)
			}
		}
		if kindOf([]byte(lower)) != kindPlain {
			return nil, fmt.Errorf("mask header field %q: its value decides how the connection goes on and must be equal", name)
		}
		m.names[lower] = struct{}{}
	}
	return m, nil
}

// has says whether the field is masked; name is in lower case.
func (m *Mask) has(name []byte) bool {
	if m == nil {
		return false
	}
	_, ok := m.names[string(name)]
	return ok
}

// spans collects masked bytes as [from, to) pairs.
type spans struct {
	list  [][2]int
	first int // list[first:] are ours
	base  int // offset of the slice that is being read
}

// add masks the byte at offset i of that slice, which is above all before.
func (s *spans) add(i int) {
	i += s.base
	if n := len(s.list); n > s.first && s.list[n-1][1] == i {
		s.list[n-1][1] = i + 1
		return
	}
	s.list = append(s.list, [2]int{i, i + 1})
}
