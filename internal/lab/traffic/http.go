package traffic

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
)

// afterHTTP looks at the first bytes of a connection. A GET request is answered, and then the
// reader is nil; anything else is to be read from the reader. The caller has set deadlines.
func (s *Server) afterHTTP(conn io.ReadWriter) (io.Reader, error) {
	if !s.HTTP {
		return conn, nil
	}
	const get = "GET "
	head := make([]byte, len(get)) // as long as a request's magic
	n, err := io.ReadFull(conn, head)
	if err != nil {
		return nil, fmt.Errorf("read the first bytes: %w", err)
	}
	all := io.MultiReader(bytes.NewReader(head[:n]), conn)
	if string(head) != get {
		return all, nil
	}
	if _, err := http.ReadRequest(bufio.NewReader(io.LimitReader(all, maxHeader))); err != nil {
		return nil, fmt.Errorf("read a GET request: %w", err)
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"); err != nil {
		return nil, fmt.Errorf("answer a GET request: %w", err)
	}
	return nil, nil
}
