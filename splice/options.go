package splice

import "gvisor.dev/gvisor/pkg/tcpip/header"

// Options by which segments are signed: TCP MD5 (RFC 2385), TCP-AO (RFC 5925). The signature
// covers the addresses.
const (
	optionMD5 = 19
	optionAO  = 29
)

// What a peer without the option can take, bytes (RFC 9293, 3.7.1).
const (
	defaultMSS4 = 536
	defaultMSS6 = 1220
)

// readSYN reads a SYN's or SYN-ACK's options, lowers the MSS to c.maxMSS, and overwrites by NOPs
// what netstack could not go on with, should it have to take the connection up: TCP Fast
// Open (whose data would reach a server before the standby holds the record), MPTCP (whose further
// subflows would go to other servers), and what nobody knows.
func (c *Conn) readSYN(tcp []byte, partial bool) (o offer, drop Reason) {
	o = offer{
		isn: be32(tcp[4:]), window: be16(tcp[14:]), ws: -1, mss: defaultMSS4, valid: true,
		flags: tcp[13] & (flagECE | flagCWR),
	}
	if c.v6 {
		o.mss = defaultMSS6
	}
	opts := tcp[header.TCPMinimumSize:]
	before := sumOf(opts)
	for i := 0; i < len(opts) && opts[i] != header.TCPOptionEOL; {
		if opts[i] == header.TCPOptionNOP {
			i++
			continue
		}
		if i+1 >= len(opts) || opts[i+1] < 2 || i+int(opts[i+1]) > len(opts) {
			return o, DropOptions
		}
		opt := opts[i : i+int(opts[i+1])]
		i += len(opt)
		if drop = c.readOption(&o, opt); drop != DropNone {
			return o, drop
		}
	}
	if !partial {
		sum := tcp[header.TCPChecksumOffset:]
		put16(sum, ^add16(^be16(sum), add16(sumOf(opts), ^before)))
	}
	return o, DropNone
}

func (c *Conn) readOption(o *offer, opt []byte) Reason {
	switch kind := opt[0]; {
	case kind == header.TCPOptionMSS && len(opt) == header.TCPOptionMSSLength:
		mss := be16(opt[2:])
		if c.maxMSS > 0 && mss > c.maxMSS {
			mss = c.maxMSS
			put16(opt[2:], mss)
		}
		if mss > 0 { // else the default holds
			o.mss = mss
		}
	case kind == header.TCPOptionWS && len(opt) == header.TCPOptionWSLength:
		o.ws = int8(min(opt[2], header.MaxWndScale)) // RFC 7323, 2.3
	case kind == header.TCPOptionSACKPermitted && len(opt) == header.TCPOptionSackPermittedLength:
		o.sack = true
	case kind == header.TCPOptionTS && len(opt) == header.TCPOptionTSLength:
		o.ts, o.tsVal = true, be32(opt[2:])
	case kind == optionMD5 || kind == optionAO:
		return DropSigned
	default:
		for i := range opt {
			opt[i] = header.TCPOptionNOP
		}
	}
	return DropNone
}

// sumOf is the one's complement sum of b, whose length is even.
func sumOf(b []byte) (x uint16) {
	for ; len(b) > 1; b = b[2:] {
		x = add16(x, be16(b))
	}
	return x
}

// timestamp finds the timestamps option of a segment; at is where TSval is in opts, 0: none.
func timestamp(opts []byte) (at int, ok bool) {
	// NOP NOP TS is what everybody sends (RFC 7323, appendix A).
	if len(opts) >= 12 && be32(opts) == header.TCPOptionNOP<<24|header.TCPOptionNOP<<16|header.TCPOptionTS<<8|header.TCPOptionTSLength {
		return 4, true
	}
	ts, _, ok := LocateOptions(opts)
	return ts + 2, ok && ts >= 0
}
