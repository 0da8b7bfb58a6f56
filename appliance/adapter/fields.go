package adapter

// MaxName is the length in bytes of the longest header field name that can be told
// from others. It must hold the names and the values of kindOf and element.
const MaxName = 30

// kind says what a field's value means to us.
type kind uint8

const (
	kindPlain      kind = iota // nothing
	kindLength                 // Content-Length
	kindTransfer               // Transfer-Encoding
	kindConnection             // Connection
	kindAuth                   // Authorization, Proxy-Authorization: the scheme
	kinds
)

// kindOf returns the kind of a field; name is in lower case.
func kindOf(name []byte) kind {
	switch string(name) {
	case "content-length":
		return kindLength
	case "transfer-encoding":
		return kindTransfer
	case "connection":
		return kindConnection
	case "authorization", "proxy-authorization":
		return kindAuth
	}
	return kindPlain
}

// found is what the fields read so far have said.
type found uint8

const (
	foundLength    found = 1 << iota // fields.length is the Content-Length
	foundChunked                     // the last transfer coding is chunked
	foundCoding                      // the last transfer coding is another one
	foundClose                       // Connection: close
	foundKeepAlive                   // Connection: keep-alive
	foundBound                       // an authentication that belongs to the connection
	foundAll       = 1<<iota - 1
)

// fieldStep is where in a line the section is.
type fieldStep uint8

const (
	stepLine    fieldStep = iota // at a line's start
	stepName                     // within a name
	stepSpace                    // before a value
	stepValue                    // within a value
	stepLineEnd                  // CR of a line was read
	stepEnd                      // CR of the empty line was read
	fieldSteps
)

// fields reads a section of header fields, from the byte after the start line to the
// empty line, one byte at a time. It takes only what every server must understand in
// the same way: lines end with CRLF, a name is followed at once by its colon, and
// nothing is folded (RFC 9112 sections 2.2, 5.1 and 5.2).
type fields struct {
	step   fieldStep
	kind   kind // of the value under way
	masked bool // the value under way is not compared
	found  found
	length uint64         // the Content-Length, with foundLength
	n      uint8          // bytes of token in use; above MaxName: it was longer
	token  [MaxName]uint8 // the name, or the element of a value, in lower case
}

// outcome of a byte.
type outcome uint8

const (
	more outcome = iota // the section goes on
	done                // this was its last byte
	bad                 // no HTTP that all understand alike
)

// next takes a byte. In a trailer section no field has a meaning (RFC 9110 section
// 6.5.1), but values are masked. masks: this byte belongs to a masked value.
func (f *fields) next(c byte, mask *Mask, trailer bool) (out outcome, masks bool) {
	switch f.step {
	case stepLine:
		if c == '\r' {
			f.step = stepEnd
			return more, false
		}
		f.step, f.n = stepName, 0
		return f.name(c), false
	case stepName:
		if c != ':' {
			return f.name(c), false
		}
		f.step, f.kind, f.masked = stepSpace, kindPlain, false
		if f.n <= MaxName {
			f.masked = mask.has(f.token[:f.n])
			if !trailer {
				f.kind = kindOf(f.token[:f.n])
			}
		}
		f.n = 0
		return more, false
	case stepSpace, stepValue:
		switch {
		case c == '\r':
			f.step = stepLineEnd
			return f.lineEnd(), false
		case f.step == stepSpace && (c == ' ' || c == '\t'):
			return more, false
		case c < ' ' && c != '\t' || c == 0x7f:
			return bad, false
		}
		f.step = stepValue
		return f.value(c), f.masked
	case stepLineEnd:
		if c != '\n' {
			return bad, false
		}
		f.step = stepLine
		return more, false
	}
	if c != '\n' {
		return bad, false
	}
	return done, false
}

func (f *fields) name(c byte) outcome {
	if !isToken(c) {
		return bad
	}
	f.push(c)
	return more
}

// value takes a byte of a value.
func (f *fields) value(c byte) outcome {
	switch f.kind {
	case kindPlain:
		return more
	case kindAuth:
		if c == ' ' {
			out := f.element()
			f.kind, f.n = kindPlain, 0
			return out
		}
	case kindTransfer, kindConnection:
		if c == ',' {
			out := f.element()
			f.n = 0
			return out
		}
		if f.n == 0 && (c == ' ' || c == '\t') {
			return more
		}
	}
	f.push(c)
	return more
}

// lineEnd judges what is left of the value when its line ends.
func (f *fields) lineEnd() outcome {
	out := more
	if f.kind != kindPlain {
		out = f.element()
	}
	f.kind, f.masked, f.n = kindPlain, false, 0
	return out
}

// push appends to the token.
func (f *fields) push(c byte) {
	if f.n >= MaxName {
		f.n = MaxName + 1
		return
	}
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	f.token[f.n] = c
	f.n++
}

// element judges one element of a value, which is the token.
func (f *fields) element() outcome {
	if f.n > MaxName {
		if f.kind == kindLength || f.kind == kindTransfer {
			return bad
		}
		return more
	}
	e := f.token[:f.n]
	for len(e) > 0 && (e[len(e)-1] == ' ' || e[len(e)-1] == '\t') {
		e = e[:len(e)-1]
	}
	switch f.kind {
	case kindLength:
		return f.contentLength(e)
	case kindTransfer:
		return f.coding(e)
	case kindConnection:
		switch string(e) {
		case "close":
			f.found |= foundClose
		case "keep-alive":
			f.found |= foundKeepAlive
		}
	case kindAuth:
		// These authenticate the connection, not the request (RFC 4559, MS-NTHT).
		if s := string(e); s == "negotiate" || s == "ntlm" {
			f.found |= foundBound
		}
	}
	return more
}

// contentLength takes a decimal number, once. RFC 9110 section 8.6 lets a recipient
// accept repetitions of the same number or refuse them, so servers differ.
func (f *fields) contentLength(digits []byte) outcome {
	if f.found&foundLength != 0 || len(digits) == 0 {
		return bad
	}
	var v uint64
	for _, c := range digits {
		d := uint64(c - '0')
		if c < '0' || c > '9' || v > (maxLength-d)/10 {
			return bad
		}
		v = v*10 + d
	}
	f.found |= foundLength
	f.length = v
	return more
}

// coding takes one transfer coding. Chunked must be the last, and be there once
// (RFC 9112 section 6.1).
func (f *fields) coding(name []byte) outcome {
	if f.found&foundChunked != 0 || len(name) == 0 {
		return bad
	}
	if string(name) == "chunked" {
		f.found = f.found&^foundCoding | foundChunked
	} else {
		f.found |= foundCoding
	}
	return more
}

// isToken says whether c may be in a token (RFC 9110 section 5.6.2).
func isToken(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	switch c {
	case '!', '#', '$', '%', '&', '\'', '*', '+', '-', '.', '^', '_', '`', '|', '~':
		return true
	}
	return false
}
