package wire

// MaxOrders is the longest text of Orders, bytes.
const MaxOrders = 256 << 10

// AppendOrders appends an Orders frame of the session's version: what the sender goes by of what the operator has ordered
// at run time. The text says it; nobody below package appliance understands it. It has at most MaxOrders bytes.
func AppendOrders(dst []byte, version uint8, epoch uint64, text []byte) []byte {
	start := len(dst)
	dst = append(Begin(dst), text...)
	Finish(dst, start, Header{Version: version, Type: TypeOrders, Epoch: epoch})
	return dst
}

// DecodeOrders reads the payload of an Orders frame: the text, which aliases it.
func DecodeOrders(payload []byte) ([]byte, error) {
	if len(payload) > MaxOrders {
		return nil, ErrTooLarge
	}
	return payload, nil
}
