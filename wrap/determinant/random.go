package determinant

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// SecretSize is that of the servers' secret, in bytes.
const SecretSize = 32

// Random is what one process gets for random while it serves one instance: AES-256 in counter mode
// under a key of its own, made of the servers' secret and the instance's nonce (HKDF, RFC 5869). A draw is
// known by its number, so that two servers agree without a word, and nothing is drawn twice:
// the number is the upper half of the counter.
type Random struct {
	block cipher.Block
	next  uint64
}

// NewRandom makes the source of the process at path. Without the secret what it gives cannot be told from random.
func NewRandom(secret []byte, i Instance, c Connection, path string) (*Random, error) {
	if len(secret) != SecretSize {
		return nil, fmt.Errorf("a secret of %d bytes, not %d", len(secret), SecretSize)
	}
	info := "lockstep wrap random 1\x00" + c.String() + "\x00" + path
	key, err := hkdf.Key(sha256.New, secret, i.Nonce[:], info, 32)
	if err != nil {
		return nil, fmt.Errorf("deriving randomness: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("deriving randomness: %w", err)
	}
	return &Random{block: block}, nil
}

// Draw fills p, as the next draw.
func (r *Random) Draw(p []byte) {
	r.fill(r.next, p)
	r.next++
}

// numbers is set in the counter of what is drawn by number.
const numbers = 1 << 63

// Number is one that depends on n alone, not on what has been drawn before.
func (r *Random) Number(n uint64) uint64 {
	var b [8]byte
	r.fill(numbers|n, b[:])
	return binary.BigEndian.Uint64(b[:])
}

func (r *Random) fill(n uint64, p []byte) {
	var iv [aes.BlockSize]byte
	binary.BigEndian.PutUint64(iv[:], n)
	clear(p)
	cipher.NewCTR(r.block, iv[:]).XORKeyStream(p, p)
}
