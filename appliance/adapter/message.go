package adapter

// Limits of a message. Beyond them a stream is opaque.
const (
	MaxHead      = 64 << 10  // bytes of a head, and of a trailer section, with the lines that end them
	maxChunkLine = 4 << 10   // bytes of a chunk-size line with its extensions
	maxDigits    = 15        // hexadecimal digits of a chunk's size
	maxLength    = 1<<63 - 1 // bytes of a body
)

// phase is where in a message a stream is.
//
//	start -> line -> fields -> length -------------------------------> start
//	                        -> size -> [space, ext] -> sizeEnd -> data -> dataCR -> dataLF -> size
//	                                                           -> trailer -> start
//	                        -> untilClose
type phase uint8

const (
	phaseStart      phase = iota // between messages
	phaseStartEnd                // CR of an empty line before a request was read
	phaseLine                    // in the start line
	phaseLineEnd                 // CR of the start line was read
	phaseFields                  // in the header section
	phaseHead                    // the head is read; begin says how the body is framed
	phaseLength                  // in a body of known length
	phaseSize                    // in a chunk's size
	phaseSpace                   // in white space after it
	phaseExt                     // in a chunk extension
	phaseSizeEnd                 // CR of the size line was read
	phaseData                    // in a chunk's data
	phaseDataCR                  // after it
	phaseDataLF                  // CR after it was read
	phaseTrailer                 // in the trailer section
	phaseUntilClose              // in a body that lasts until the FIN
	phases
)

// event is why message.feed came back.
type event uint8

const (
	eventNone    event = iota // all bytes are read
	eventHead                 // a head was read to its end: call begin or reset
	eventTrailer              // a trailer section follows
	eventEnd                  // a message was read to its end
	eventBad                  // this is no HTTP/1 that all understand alike
)

// method of a request, as far as it changes the framing of its response.
type method uint8

const (
	methodOther method = iota
	methodHead
	methodConnect
)

// message reads a stream of messages. The zero value reads requests.
type message struct {
	response bool // reads responses
	phase    phase
	pos      uint8  // bytes of the start line's fixed text, or digits of the chunk's size
	minor    uint8  // HTTP/1.minor, once the start line is read
	space    uint8  // request line: spaces read
	method   method // of a request
	status   uint16 // of a response
	size     uint32 // bytes of the head, the trailer section or the size line
	left     uint64 // bytes of the body or the chunk that are to come
	fields   fields
}

// reset goes to the start of the next message.
func (m *message) reset() { *m = message{response: m.response} }

// inSection says whether part of a head or a trailer section was read.
func (m *message) inSection() bool {
	switch m.phase {
	case phaseStartEnd, phaseLine, phaseLineEnd, phaseFields:
		return true
	}
	return m.phase == phaseTrailer && m.size > 0
}

// feed reads b up to the next event and returns how many bytes that took. After
// eventBad the message is of no use any more.
func (m *message) feed(b []byte, mask *Mask, sp *spans) (n int, ev event) {
	for n < len(b) {
		switch m.phase {
		case phaseLength, phaseData:
			k := min(m.left, uint64(len(b)-n))
			n += int(k)
			if m.left -= k; m.left > 0 {
				continue
			}
			if m.phase == phaseLength {
				m.reset()
				return n, eventEnd
			}
			m.phase = phaseDataCR
		case phaseUntilClose:
			return len(b), eventNone
		default:
			if k := m.plain(b[n:]); k > 0 {
				n += k
				continue
			}
			ev, masks := m.next(b[n], mask)
			if masks && sp != nil {
				sp.add(n)
			}
			n++
			if ev != eventNone {
				return n, ev
			}
		}
	}
	return n, eventNone
}

// plain reads bytes of a value that means nothing to us, which most of a head is. next
// would read them alike, one by one.
func (m *message) plain(b []byte) (n int) {
	f := &m.fields
	if m.phase != phaseFields || f.step != stepValue || f.kind != kindPlain || f.masked {
		return 0
	}
	b = b[:min(len(b), MaxHead-int(m.size))]
	for n < len(b) && b[n] >= ' ' && b[n] != 0x7f {
		n++
	}
	m.size += uint32(n)
	return n
}

// next reads one byte of a head or of what stands around chunks.
func (m *message) next(c byte, mask *Mask) (ev event, masks bool) {
	switch m.phase {
	case phaseSize, phaseSpace, phaseExt, phaseSizeEnd, phaseDataCR, phaseDataLF:
		return m.chunk(c), false
	}
	if m.size++; m.size > MaxHead {
		return eventBad, false
	}
	switch m.phase {
	case phaseFields, phaseTrailer:
		out, masks := m.fields.next(c, mask, m.phase == phaseTrailer)
		switch {
		case out == bad:
			return eventBad, false
		case out == done && m.phase == phaseTrailer:
			m.reset()
			return eventEnd, false
		case out == done:
			m.phase = phaseHead
			return eventHead, false
		}
		return eventNone, masks
	case phaseStart, phaseStartEnd:
		return m.start(c), false
	case phaseLine:
		if c < ' ' && c != '\r' && c != '\t' || c == 0x7f {
			return eventBad, false
		}
		if m.response {
			return m.statusLine(c), false
		}
		return m.requestLine(c), false
	case phaseLineEnd:
		if c == '\n' {
			m.phase, m.pos, m.space = phaseFields, 0, 0
			m.fields = fields{}
			return eventNone, false
		}
	}
	return eventBad, false
}

// start reads a message's first byte. Before a request there may be empty lines (RFC
// 9112 section 2.2).
func (m *message) start(c byte) event {
	switch {
	case m.phase == phaseStartEnd && c == '\n':
		m.phase = phaseStart
		return eventNone
	case m.phase == phaseStartEnd:
		return eventBad
	case c == '\r' && !m.response:
		m.phase = phaseStartEnd
		return eventNone
	}
	m.phase = phaseLine
	if m.response {
		return m.statusLine(c)
	}
	return m.requestLine(c)
}

// version is how HTTP-version begins (RFC 9112 section 2.3).
const version = "HTTP/1."

// httpVersion reads the byte at pos of HTTP-version. Minor versions above 1 do not
// exist; one may frame differently.
func (m *message) httpVersion(c byte) bool {
	switch {
	case m.pos < uint8(len(version)):
		if c != version[m.pos] {
			return false
		}
	case c == '0' || c == '1':
		m.minor = c - '0'
	default:
		return false
	}
	m.pos++
	return true
}

const (
	versionLen = uint8(len(version) + 1)
	statusEnd  = versionLen + 1 + 3 // of "HTTP/1.1 200"
)

// statusLine reads a byte of status-line (RFC 9112 section 4).
func (m *message) statusLine(c byte) event {
	ok := true
	switch {
	case m.pos < versionLen:
		ok = m.httpVersion(c)
	case m.pos == versionLen:
		ok = c == ' '
		m.pos++
	case m.pos < statusEnd:
		ok = '0' <= c && c <= '9'
		m.status = m.status*10 + uint16(c-'0')
		m.pos++
	case c == '\r':
		ok = m.status >= 100
		m.phase = phaseLineEnd
	case m.pos == statusEnd:
		ok = c == ' '
		m.pos++
	}
	if !ok {
		return eventBad
	}
	return eventNone
}

// requestLine reads a byte of request-line (RFC 9112 section 3).
func (m *message) requestLine(c byte) event {
	ok := true
	switch {
	case m.space == 0 && c == ' ':
		ok = m.fields.n > 0
		m.method = methodOf(&m.fields)
		m.space, m.pos = 1, 0
	case m.space == 0:
		ok = isToken(c)
		m.pushMethod(c)
	case m.space == 1 && c == ' ':
		ok = m.pos > 0
		m.space, m.pos = 2, 0
	case m.space == 1:
		ok = c > ' '
		m.pos = 1 // the target is not empty
	case m.pos < versionLen:
		ok = m.httpVersion(c)
	default:
		ok = c == '\r'
		m.phase = phaseLineEnd
	}
	if !ok {
		return eventBad
	}
	return eventNone
}

// pushMethod keeps the method in the token of fields. Methods are case-sensitive, so
// push, which folds the case, does not serve.
func (m *message) pushMethod(c byte) {
	f := &m.fields
	if f.n >= MaxName {
		f.n = MaxName + 1
		return
	}
	f.token[f.n] = c
	f.n++
}

func methodOf(f *fields) method {
	if f.n > MaxName {
		return methodOther
	}
	switch string(f.token[:f.n]) {
	case "HEAD":
		return methodHead
	case "CONNECT":
		return methodConnect
	}
	return methodOther
}

// framing is how a body ends.
type framing uint8

const (
	framingNone framing = iota
	framingLength
	framingChunked
	framingUntilClose
)

// begin starts the body after eventHead. It says whether the message is over by that.
func (m *message) begin(f framing) (over bool) {
	length := m.fields.length
	m.reset()
	switch {
	case f == framingLength && length > 0:
		m.phase, m.left = phaseLength, length
	case f == framingChunked:
		m.phase = phaseSize
	case f == framingUntilClose:
		m.phase = phaseUntilClose
	default:
		return true
	}
	return false
}

// chunk reads a byte of what stands around chunk data (RFC 9112 section 7.1).
func (m *message) chunk(c byte) event {
	if m.size++; m.size > maxChunkLine {
		return eventBad
	}
	switch m.phase {
	case phaseSize:
		if d, ok := hexDigit(c); ok {
			if m.pos == maxDigits {
				return eventBad
			}
			m.pos++
			m.left = m.left<<4 | uint64(d)
			return eventNone
		}
		if m.pos == 0 {
			return eventBad
		}
		return m.afterSize(c)
	case phaseSpace:
		return m.afterSize(c)
	case phaseExt:
		switch {
		case c == '\r':
			m.phase = phaseSizeEnd
		case c < ' ' && c != '\t' || c == 0x7f:
			return eventBad
		}
		return eventNone
	case phaseDataCR:
		if c == '\r' {
			m.phase = phaseDataLF
			return eventNone
		}
		return eventBad
	}
	if c != '\n' {
		return eventBad
	}
	last := m.phase == phaseSizeEnd && m.left == 0
	m.pos, m.size = 0, 0
	switch {
	case last:
		m.phase = phaseTrailer
		return eventTrailer
	case m.phase == phaseSizeEnd:
		m.phase = phaseData
	default:
		m.phase = phaseSize
	}
	return eventNone
}

// afterSize reads the byte after a chunk's size or after white space there. Some
// servers fill the size up with spaces.
func (m *message) afterSize(c byte) event {
	switch c {
	case ' ', '\t':
		m.phase = phaseSpace
	case ';':
		m.phase = phaseExt
	case '\r':
		m.phase = phaseSizeEnd
	default:
		return eventBad
	}
	return eventNone
}

func hexDigit(c byte) (d byte, ok bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
