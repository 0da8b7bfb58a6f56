package wire

import (
	"errors"
	"strings"
	"testing"
)

func TestVoterHelloFromTheFuture(t *testing.T) {
	h := VoterHello{MinVersion: 1, MaxVersion: VoterVersion + 1, Pair: "edge", Node: "b", Boot: 5, FailureTimeout: 7}
	f, err := AppendVoterHello(nil, &h)
	if err != nil {
		t.Fatal(err)
	}
	f = append(f, "more"...)
	Finish(f, 0, Header{Version: Version + 1, Type: TypeVoterHello})
	_, payload, err := Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeVoterHello(payload); err != nil || got != h {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestVoterFramesRefused(t *testing.T) {
	long := strings.Repeat("x", maxName+1)
	for _, h := range []VoterHello{{Pair: long}, {Node: long}, {MinVersion: 2, MaxVersion: 1}} {
		if _, err := AppendVoterHello(nil, &h); err == nil {
			t.Errorf("%+v was encoded", h)
		}
	}
	f, err := AppendVoterHello(nil, &VoterHello{MinVersion: 1, MaxVersion: 1, Pair: "edge", Node: "a"})
	if err != nil {
		t.Fatal(err)
	}
	payload := f[HeaderLen:]
	for n := range payload {
		if _, err := DecodeVoterHello(payload[:n]); err == nil {
			t.Errorf("%d of %d bytes were taken", n, len(payload))
		}
	}
	if _, err := DecodeVoterHello(append(payload, 0)); !errors.Is(err, ErrTrailing) {
		t.Errorf("a byte too many: %v", err)
	}
	if _, err := AppendVoterMessage(nil, 1, make([]byte, MaxVoterMessage+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a message too long: %v", err)
	}
}
