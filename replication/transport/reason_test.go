package transport

import (
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
)

func TestOnceAndGist(t *testing.T) {
	refused := func(port int) *Error {
		addr := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}
		return &Error{Reason: RefusedHandshake, Err: &net.OpError{Op: "read", Net: "tcp", Source: addr, Err: os.NewSyscallError("read", syscall.ECONNRESET)}}
	}
	var o Once
	if !o.First(refused(1).Gist()) || o.First(refused(2).Gist()) {
		t.Error("two that differ by a port only are both new")
	}
	if !o.First((&Error{Reason: RefusedWrongKey}).Gist()) {
		t.Error("another reason is not new")
	}
	o.Forget()
	if !o.First(refused(3).Gist()) {
		t.Error("not new after Forget")
	}
	for i := range 10 * maxSaid {
		o.First(fmt.Sprint(i))
	}
	if len(o.said) > maxSaid {
		t.Errorf("%d texts are remembered, at most %d", len(o.said), maxSaid)
	}
}
