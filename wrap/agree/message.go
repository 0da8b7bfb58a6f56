package agree

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"lockstep/wrap/determinant"
)

// What is asked. An answer begins with one of the last three.
const (
	askHello = iota + 1
	askJoin
	askDecide
	askLeave // is not answered
	saysYes
	saysNo
	saysElsewhere
)

// maxMessage bounds a message, in bytes: a determinant, its name with a path of any length that is of use, and the fixed parts.
const maxMessage = determinant.MaxValue + maxPath + 64

// maxPath is how long a process's path may be, in bytes: eight for each fork on the way to it.
const maxPath = 4096

// A message is a length of four bytes and so many more: an operation, and what belongs to it. Numbers are big endian. What is of
// no fixed size comes last, or behind its own length.
//
//	hello   the run of the server's program (16 bytes); its name
//	join    the number of the connection; two addresses, each a length and netip's binary form
//	decide  instance, kind, position, place; the path behind its length (2 bytes); the proposal
//	leave   instance
//	yes     the value; of join: number and nonce
//	no      why
//	elsewhere

// question is what a server asks.
type question struct {
	op       byte
	server   string
	run      [16]byte
	serial   uint64
	of       determinant.Connection
	name     determinant.Name
	proposal []byte
}

// answer is what it is told.
type answer struct {
	op       byte
	instance determinant.Instance
	value    []byte
}

var errMessage = errors.New("a message that is none of this program's version")

// sized puts a message's length before it.
func sized(b []byte) []byte {
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// append appends the question as a message to an empty buffer.
func (q question) append(b []byte) ([]byte, error) {
	b = append(b, 0, 0, 0, 0, q.op)
	switch q.op {
	case askHello:
		b = append(append(b, q.run[:]...), q.server...)
	case askJoin:
		b = binary.BigEndian.AppendUint64(b, q.serial)
		for _, a := range []netip.AddrPort{q.of.Client, q.of.Service} {
			text, err := a.MarshalBinary()
			if err != nil || len(text) > 255 {
				return nil, fmt.Errorf("%v cannot be told", a)
			}
			b = append(append(b, byte(len(text))), text...)
		}
	case askDecide:
		if len(q.name.Path) > maxPath || len(q.proposal) > determinant.MaxValue {
			return nil, fmt.Errorf("a determinant of %d bytes whose name has %d; %d and %d are the limits", len(q.proposal), len(q.name.Path), determinant.MaxValue, maxPath)
		}
		b = binary.BigEndian.AppendUint64(b, q.name.Instance)
		b = append(b, byte(q.name.Kind))
		b = binary.BigEndian.AppendUint64(b, q.name.Position)
		b = binary.BigEndian.AppendUint64(b, q.name.Place)
		b = binary.BigEndian.AppendUint16(b, uint16(len(q.name.Path)))
		b = append(append(b, q.name.Path...), q.proposal...)
	case askLeave:
		b = binary.BigEndian.AppendUint64(b, q.name.Instance)
	}
	return sized(b), nil
}

// parseQuestion reads what append has written. The proposal is a part of b.
func parseQuestion(b []byte) (q question, err error) {
	if len(b) == 0 {
		return q, errMessage
	}
	q.op, b = b[0], b[1:]
	switch q.op {
	case askHello:
		if len(b) < len(q.run) {
			return q, errMessage
		}
		copy(q.run[:], b)
		q.server, b = string(b[len(q.run):]), nil
	case askJoin:
		if len(b) < 8 {
			return q, errMessage
		}
		q.serial, b = binary.BigEndian.Uint64(b), b[8:]
		for _, a := range []*netip.AddrPort{&q.of.Client, &q.of.Service} {
			if len(b) == 0 || len(b) < 1+int(b[0]) {
				return q, errMessage
			}
			if err := a.UnmarshalBinary(b[1 : 1+b[0]]); err != nil {
				return q, errMessage
			}
			b = b[1+b[0]:]
		}
	case askDecide:
		const fixed = 8 + 1 + 8 + 8 + 2
		if len(b) < fixed {
			return q, errMessage
		}
		q.name.Instance, q.name.Kind = binary.BigEndian.Uint64(b), determinant.Kind(b[8])
		q.name.Position, q.name.Place = binary.BigEndian.Uint64(b[9:]), binary.BigEndian.Uint64(b[17:])
		path := int(binary.BigEndian.Uint16(b[25:]))
		if b = b[fixed:]; path > maxPath || path > len(b) {
			return q, errMessage
		}
		q.name.Path, q.proposal, b = string(b[:path]), b[path:], nil
	case askLeave:
		if len(b) != 8 {
			return q, errMessage
		}
		q.name.Instance, b = binary.BigEndian.Uint64(b), nil
	default:
		return q, fmt.Errorf("no question has the number %d", q.op)
	}
	if len(b) > 0 {
		return q, errMessage
	}
	return q, nil
}

const instanceSize = 8 + 16

// append appends the answer as a message to an empty buffer.
func (a answer) append(b []byte) []byte {
	b = append(b, 0, 0, 0, 0, a.op)
	if a.instance.Number != 0 {
		b = binary.BigEndian.AppendUint64(b, a.instance.Number)
		b = append(b, a.instance.Nonce[:]...)
	}
	return sized(append(b, a.value...))
}

// parseAnswer reads what append has written, to a question of that kind. The value is a part of b.
func parseAnswer(op byte, b []byte) (a answer, err error) {
	if len(b) == 0 {
		return a, errMessage
	}
	a.op, a.value = b[0], b[1:]
	switch {
	case a.op == saysNo:
		return a, refusal{errors.New(string(a.value))}
	case a.op == saysElsewhere:
		return a, ErrElsewhere
	case a.op != saysYes || op == askJoin && len(a.value) != instanceSize:
		return a, errMessage
	case op == askJoin:
		a.instance.Number = binary.BigEndian.Uint64(a.value)
		copy(a.instance.Nonce[:], a.value[8:])
	}
	return a, nil
}

// receive reads a message into b, or into a larger buffer.
func receive(r io.Reader, b []byte) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxMessage {
		return nil, fmt.Errorf("a message of %d bytes; %d are the limit", n, maxMessage)
	}
	if int(n) > cap(b) {
		b = make([]byte, n)
	}
	b = b[:n]
	_, err := io.ReadFull(r, b)
	return b, err
}
