package wire

import "encoding/binary"

// Fitness is what a side says of whether it could serve (version 4): at the beginning
// of a session and whenever it changes.
type Fitness struct {
	// Faults keep the sender from serving, each a sentence for people. None: it is fit.
	Faults []string
	// Services are what the sender is configured to serve.
	Services []ServiceDigest
}

// ServiceDigest tells two configurations of a service apart without carrying them.
type ServiceDigest struct {
	Name string // at most 63 bytes
	// Aspects are hashes of parts of the configuration, by the sender's and the
	// receiver's common understanding of their order; one may know more than the other.
	Aspects []uint64
}

// Bounds of Fitness. What is beyond them is left out by AppendFitness: a fault that is
// cut short is still one.
const (
	MaxFaults       = 16
	MaxFaultText    = 255 // bytes
	MaxServices     = 1024
	MaxAspects      = 16
	maxServiceName  = 63
	aspectsPerEntry = 8 // bytes
)

// AppendFitness appends a Fitness frame of the session's version.
func AppendFitness(dst []byte, version uint8, epoch uint64, f *Fitness) []byte {
	start := len(dst)
	dst = Begin(dst)
	faults := f.Faults[:min(len(f.Faults), MaxFaults)]
	dst = append(dst, byte(len(faults)))
	for _, text := range faults {
		dst = appendString(dst, text[:min(len(text), MaxFaultText)])
	}
	services := f.Services[:min(len(f.Services), MaxServices)]
	dst = appendUvarint(dst, uint64(len(services)))
	for _, s := range services {
		dst = appendString(dst, s.Name[:min(len(s.Name), maxServiceName)])
		aspects := s.Aspects[:min(len(s.Aspects), MaxAspects)]
		dst = append(dst, byte(len(aspects)))
		for _, a := range aspects {
			dst = binary.BigEndian.AppendUint64(dst, a)
		}
	}
	Finish(dst, start, Header{Version: version, Type: TypeFitness, Epoch: epoch})
	return dst
}

// DecodeFitness reads the payload of a Fitness frame.
func DecodeFitness(payload []byte) (f Fitness, err error) {
	if len(payload) < 1 {
		return f, ErrShort
	}
	n, b := int(payload[0]), payload[1:]
	if n > MaxFaults {
		return f, ErrTooLarge
	}
	for range n {
		var text string
		if text, b, err = readString(b, MaxFaultText); err != nil {
			return f, err
		}
		f.Faults = append(f.Faults, text)
	}
	count, b, err := readUvarint(b)
	if err != nil {
		return f, err
	}
	if count > MaxServices {
		return f, ErrTooLarge
	}
	for range count {
		var s ServiceDigest
		if s, b, err = readService(b); err != nil {
			return f, err
		}
		f.Services = append(f.Services, s)
	}
	if len(b) != 0 {
		return f, ErrTrailing
	}
	return f, nil
}

func readService(b []byte) (s ServiceDigest, rest []byte, err error) {
	if s.Name, b, err = readString(b, maxServiceName); err != nil {
		return s, nil, err
	}
	if len(b) == 0 {
		return s, nil, ErrShort
	}
	n, b := int(b[0]), b[1:]
	switch {
	case n > MaxAspects:
		return s, nil, ErrTooLarge
	case len(b) < n*aspectsPerEntry:
		return s, nil, ErrShort
	}
	for i := range n {
		s.Aspects = append(s.Aspects, binary.BigEndian.Uint64(b[i*aspectsPerEntry:]))
	}
	return s, b[n*aspectsPerEntry:], nil
}
