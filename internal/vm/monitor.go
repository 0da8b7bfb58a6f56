package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"
)

// monitorTimeout is for one command; none waits for the machine.
const monitorTimeout = 10 * time.Second

// execute gives QEMU's monitor one command (QEMU Machine Protocol: JSON objects, a line each).
func (c Config) execute(ctx context.Context, command string, arguments map[string]any) error {
	ctx, cancel := context.WithTimeout(ctx, monitorTimeout)
	defer cancel()
	fail := func(err error) error { return fmt.Errorf("QEMU's monitor: %s: %w", command, err) }
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.monitor())
	if err != nil {
		return fail(err)
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	lines := bufio.NewScanner(conn)
	send := func(command string, arguments map[string]any) error {
		message := map[string]any{"execute": command}
		if arguments != nil {
			message["arguments"] = arguments
		}
		if err := json.NewEncoder(conn).Encode(message); err != nil {
			return err
		}
		for lines.Scan() { // events come in between
			var reply struct {
				Return json.RawMessage `json:"return"`
				Error  *struct {
					Desc string `json:"desc"`
				} `json:"error"`
			}
			if err := json.Unmarshal(lines.Bytes(), &reply); err != nil {
				return err
			}
			if reply.Error != nil {
				return fmt.Errorf("%s", reply.Error.Desc)
			}
			if reply.Return != nil {
				return nil
			}
		}
		return fmt.Errorf("it closed the connection: %w", lines.Err())
	}
	if err := send("qmp_capabilities", nil); err != nil {
		return fail(err)
	}
	if err := send(command, arguments); err != nil {
		return fail(err)
	}
	return nil
}

// Reset is the reset button: the machine starts anew, what it had in memory is gone.
func (c Config) Reset(ctx context.Context) error { return c.execute(ctx, "system_reset", nil) }

// PowerButton presses the power button for a moment.
func (c Config) PowerButton(ctx context.Context) error {
	return c.execute(ctx, "system_powerdown", nil)
}

// screen writes what the machine's screen shows to a file, as PPM.
func (c Config) screen(ctx context.Context, path string) error {
	return c.execute(ctx, "screendump", map[string]any{"filename": path})
}

// insert puts a volume into the machine's CD drive while it runs, in the place of what was there.
func (c Config) insert(ctx context.Context, volume string) error {
	return c.execute(ctx, "blockdev-change-medium", map[string]any{"id": cdDrive, "filename": volume, "format": "raw", "force": true})
}
