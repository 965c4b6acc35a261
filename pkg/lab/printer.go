package lab

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// printer shows events one below the other, and on a terminal the table below
// them, drawn again and again in the same place.
type printer struct {
	mu       sync.Mutex
	out      io.Writer
	terminal bool
	height   int               // lines of the table on the screen
	last     map[string]string // by row: the state that was printed
	seen     map[string]string // by row: the state a moment ago
}

func newPrinter(out io.Writer) *printer {
	if out == nil {
		out = io.Discard
	}
	p := &printer{out: out, last: map[string]string{}, seen: map[string]string{}}
	if f, ok := out.(*os.File); ok {
		_, rows := terminalSize(f)
		p.terminal = rows > 0
	}
	return p
}

// terminalSize is 0, 0 if f is no terminal.
func terminalSize(f *os.File) (columns, rows int) {
	var size struct{ rows, columns, x, y uint16 }
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return 0, 0
	}
	return int(size.columns), int(size.rows)
}

// event prints one line with the time.
func (p *printer) event(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	text := fmt.Sprintf(format, args...)
	fmt.Fprintf(p.out, "%s  %s\n", clock(time.Now()), strings.ReplaceAll(text, "\n", "\n              "))
}

// erase removes the table from the screen.
func (p *printer) erase() {
	if p.height > 0 {
		// A typed ^C stands at the cursor, hence the return.
		fmt.Fprintf(p.out, "\r\x1b[%dA\x1b[J", p.height)
		p.height = 0
	}
}

// table shows the rows: on a terminal all of them, with below under them, else
// those whose state changed and lasted, and the news.
func (p *printer) table(rows []Row, below, news []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal {
		p.draw(rows, below)
		return
	}
	for _, line := range news {
		fmt.Fprintf(p.out, "%s  %s\n", clock(time.Now()), line)
	}
	for _, r := range rows {
		name, now := r.name(), r.state()
		if lasts := now == p.seen[name]; lasts && now != p.last[name] {
			p.last[name] = now
			fmt.Fprintf(p.out, "%s  %-58s %s\n", clock(time.Now()), name, now)
		}
		p.seen[name] = now
	}
}

func (p *printer) draw(rows []Row, below []string) {
	lines := tableLines(rows)
	if f, ok := p.out.(*os.File); ok {
		if _, height := terminalSize(f); len(lines)+len(below) >= height {
			lines = tableLines(merged(rows))
			lines = lines[:min(len(lines), max(1, height-1-len(below)))]
			below = below[:min(len(below), max(0, height-2))]
		}
	}
	lines = append(lines, below...)
	p.erase()
	// Long lines are cut, not wrapped: the height must be known.
	fmt.Fprintf(p.out, "\x1b[?7l%s\n\x1b[?7h", strings.Join(lines, "\n"))
	p.height = len(lines)
}

// summary prints one line of totals where no table is.
func (p *printer) summary(rows []Row, renewed int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal {
		return
	}
	t := total(rows)
	fmt.Fprintf(p.out, "%s  %d pairs: %d requests, %d failed; %d certificates renewed\n", clock(time.Now()), len(rows), t.Requests, t.Failed, renewed)
}

// state is what a line of plain output says of a row now.
func (r Row) state() string {
	what := "partly mTLS"
	switch {
	case r.FailedNow > 0 && r.FailedNow == r.latest:
		return "fails, mode " + r.Mode + ": " + r.lastError
	case r.FailedNow > 0:
		return "partly fails, mode " + r.Mode + ": " + r.lastError
	case r.Now == 0:
		what = "plaintext"
	case r.Now == 1:
		what = "mTLS"
	}
	return what + ", mode " + r.Mode
}

func clock(t time.Time) string { return t.Format("15:04:05.000") }

// close leaves the last table on the screen; elsewhere it prints it once.
func (p *printer) close(rows []Row) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal {
		p.draw(rows, nil)
		p.height = 0
		return
	}
	for _, line := range tableLines(rows) {
		fmt.Fprintln(p.out, strings.TrimRight(line, " "))
	}
}
