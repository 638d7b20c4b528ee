package ostree

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// maxOutput is how much the program may print that is kept, in bytes: some million branches.
const maxOutput = 256 << 20

// command is the program on its way, with what it complains of.
func (r *Repo) command(ctx context.Context, verb string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	const patience = 5 * time.Second
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, r.program, append([]string{verb, "--repo=" + r.path}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8") // in English, and with paths that are not all ASCII
	cmd.Stderr, cmd.WaitDelay = &limited{&said, 4 << 10}, patience
	return cmd, &said
}

// limited keeps the beginning of what is written to it.
type limited struct {
	b    *bytes.Buffer
	room int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.room)
	l.room -= n
	l.b.Write(p[:n])
	return len(p), nil
}

// run runs the program, and returns what it printed.
func (r *Repo) run(ctx context.Context, verb string, args ...string) (string, error) {
	cmd, said := r.command(ctx, verb, args...)
	var out bytes.Buffer
	cmd.Stdout = &limited{&out, maxOutput}
	err := verdict(ctx, cmd.Run(), said.String())
	return out.String(), err
}

// verdict is what the program's end means.
func verdict(ctx context.Context, err error, said string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !errors.As(err, new(*exec.ExitError)) {
		return err
	}
	said = strings.Join(strings.Fields(strings.TrimPrefix(said, "error: ")), " ")
	if said == "" {
		return fmt.Errorf("%s: %w", program, err)
	}
	return &complaint{program + ": " + said, kind(said)}
}

// complaint is what the program said, and what that is, nil for nothing that is known.
type complaint struct {
	words string
	kind  error
}

func (c *complaint) Error() string { return c.words }
func (c *complaint) Unwrap() error { return c.kind }

// kind is that of an error the program told, nil where it says nothing that is known.
func kind(said string) error {
	for _, k := range []struct {
		text string
		kind error
	}{
		{"not found", image.ErrNotFound}, {"No such file or directory", image.ErrNotFound}, {"Permission denied", image.ErrDenied},
		{"No space left on device", unix.ENOSPC}, {"Disk quota exceeded", image.ErrQuota}, {"Read-only file system", image.ErrUnsupported},
		{"File name too long", image.ErrInvalid}, {"min-free-space", unix.ENOSPC},
	} {
		if strings.Contains(said, k.text) {
			return k.kind
		}
	}
	return nil
}

// branches lists all branches.
func (r *Repo) branches(ctx context.Context) (branches, error) {
	out, err := r.run(ctx, "refs", "--list", strings.TrimSuffix(prefix, "/"))
	if err != nil {
		return branches{}, err
	}
	return parseBranches(out), nil
}

// cat opens a file of a branch. Its reader ends in io.EOF only if the program had no complaints. What is not there is ErrNotFound at
// once.
func (r *Repo) cat(ctx context.Context, ref, path string) (io.ReadCloser, error) {
	cmd, said := r.command(ctx, "cat", ref, path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &output{ctx: ctx, cmd: cmd, said: said, r: bufio.NewReaderSize(out, 64<<10)}
	if _, err := c.r.Peek(1); err != nil {
		if err := c.wait(); err != io.EOF {
			return nil, err
		}
	}
	return c, nil
}

// output is what the program prints.
type output struct {
	ctx  context.Context
	cmd  *exec.Cmd
	said *bytes.Buffer
	r    *bufio.Reader
	err  error // how it ended, nil as long as it runs
}

func (o *output) Read(p []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.r.Read(p)
	if err != nil {
		err = o.wait()
	}
	return n, err
}

// wait is for when there is nothing more to read. It returns io.EOF if all went well.
func (o *output) wait() error {
	if o.err == nil {
		o.err = verdict(o.ctx, o.cmd.Wait(), o.said.String())
		if o.err == nil {
			o.err = io.EOF
		}
	}
	return o.err
}

// Close ends the program.
func (o *output) Close() error {
	if o.err == nil {
		o.cmd.Process.Kill()
		o.cmd.Wait()
		o.err = os.ErrClosed
	}
	return nil
}
