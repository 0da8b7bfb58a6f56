package adapter

// replies follows the response stream. It is a plain value: a copy looks ahead.
type replies struct {
	msg      message
	answered int  // of the requests that are kept, the first so many are answered
	opaque   bool // nothing from here on is understood; all else is zero then
	stray    bool // the current or last response answers no request; what follows is opaque
	closing  bool // the current or last final response is the connection's last
	interim  bool // an interim response came, its final one did not begin
	bound    bool // a request that was answered authenticated the connection
}

func newReplies() replies { return replies{msg: message{response: true}} }

func (r *replies) giveUp() {
	*r = newReplies()
	r.opaque = true
}

// feed reads b up to the next event and returns how many bytes that took. eventEnd is
// the end of a final response; there is no eventBad.
func (r *replies) feed(b []byte, q *requests, mask *Mask, sp *spans) (n int, ev event) {
	if r.msg.phase == phaseStart && !r.opaque && len(b) > 0 {
		if _, ok := q.at(r.answered); r.stray || !ok && q.opaque {
			r.giveUp()
		}
	}
	if r.opaque {
		return len(b), eventNone
	}
	n, ev = r.msg.feed(b, mask, sp)
	switch ev {
	case eventBad:
		r.giveUp()
		return len(b), eventNone
	case eventHead:
		if r.head(q) {
			ev = eventEnd
		}
	}
	if ev == eventEnd && !r.stray {
		r.answered++
	}
	return n, ev
}

// head takes a response whose head was read. over: it has no body, and is final.
func (r *replies) head(q *requests) (over bool) {
	req, ok := q.at(r.answered)
	status, minor, found := r.msg.status, r.msg.minor, r.msg.fields.found
	success := 200 <= status && status <= 299
	switch {
	case !ok && q.opaque, status == 101, req.method == methodConnect && success:
		r.giveUp()
		return false
	}
	r.stray = !ok
	r.closing, r.interim = false, status < 200
	if r.interim {
		// Responses to come belong to the same request (RFC 9110 section 15.2).
		r.msg.reset()
		return false
	}
	how, ok := bodyOf(status, minor, found, req.method)
	if !ok {
		r.giveUp()
		return false
	}
	r.closing = req.close || found&foundClose != 0 || minor == 0 && found&foundKeepAlive == 0
	return r.msg.begin(how)
}

// bodyOf finds the framing of a response's body (RFC 9112 section 6.3).
func bodyOf(status uint16, minor uint8, found found, m method) (how framing, ok bool) {
	switch {
	case m == methodHead, status == 204, status == 304:
		return framingNone, true
	case found&(foundChunked|foundCoding) != 0:
		if found&foundLength != 0 || minor == 0 {
			return 0, false
		}
		if found&foundCoding != 0 {
			return framingUntilClose, true
		}
		return framingChunked, true
	case found&foundLength != 0:
		return framingLength, true
	}
	return framingUntilClose, true
}

// end judges a FIN here.
func (r *replies) end(q *requests) Verdict {
	_, asked := q.at(r.answered)
	switch {
	case r.opaque, r.msg.phase == phaseUntilClose:
		return Unknown
	case r.msg.phase != phaseStart:
		if r.stray || !asked {
			return Unknown
		}
		return Premature
	case r.closing:
		return Complete // requests behind it will not be answered (RFC 9112 section 9.6)
	case r.stray:
		return Unknown
	case r.interim:
		return Premature
	}
	return q.owed(r.answered)
}
