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

// tableLines are the rows below a heading, in columns.
func tableLines(rows []Row) []string {
	namespace := commonNamespace(rows)
	cells := [][]string{{"CALLER", "CALLEE:PORT", "REQUESTS", "FAILED", "MTLS", "MODE", "CERT", "CONFIG AGE"}}
	for _, r := range rows {
		age := "-"
		if r.Age >= 0 {
			age = r.Age.Truncate(time.Second).String()
		}
		callee, port, _ := strings.Cut(r.calleeText(), ":")
		if namespace != "" {
			callee = strings.TrimSuffix(callee, "."+namespace)
		}
		cells = append(cells, []string{
			strings.TrimPrefix(r.callerText(), namespace+"/"), callee + ":" + port,
			fmt.Sprint(r.Requests), fmt.Sprint(r.Failed), fmt.Sprintf("%.0f %%", 100*r.Now), r.way, r.certText(), age,
		})
	}
	width := make([]int, len(cells[0]))
	for _, line := range cells {
		for i, text := range line {
			width[i] = max(width[i], len(text))
		}
	}
	lines := make([]string, len(cells))
	for i, c := range cells {
		lines[i] = strings.TrimRight(fmt.Sprintf("%-*s %-*s %*s %*s %*s  %-*s %-*s %s",
			width[0], c[0], width[1], c[1], width[2], c[2], width[3], c[3], width[4], c[4], width[5], c[5], width[6], c[6], c[7]), " ")
	}
	return lines
}

// commonNamespace is the one that all callers and callees are in, or empty:
// then the table need not name it.
func commonNamespace(rows []Row) string {
	common := ""
	for _, r := range rows {
		host := strings.Split(r.Callee, ".")
		if len(host) < 2 {
			return ""
		}
		spaces := []string{host[1]}
		if caller, _, ok := strings.Cut(r.Caller, "/"); ok {
			spaces = append(spaces, caller)
		}
		for _, n := range spaces {
			if common == "" {
				common = n
			}
			if n != common {
				return ""
			}
		}
	}
	return common
}

// merged has one row per callee for all callers with a sidecar, for terminals
// that are too low for one per pair.
func merged(rows []Row) []Row {
	var out []Row
	at := map[string]int{}
	count := map[string]int{}
	for _, r := range rows {
		key := r.calleeText()
		i, ok := at[key]
		switch {
		case !r.Sidecar:
			out = append(out, r)
			continue
		case !ok:
			at[key], i = len(out), len(out)
			out = append(out, r)
			out[i].Now = 0
		default:
			out[i].Requests += r.Requests
			out[i].Failed += r.Failed
			out[i].Age = min(out[i].Age, r.Age)
			out[i].Leaf = 0 // they have different ones
		}
		count[key]++
		out[i].Now += r.Now
	}
	for key, i := range at {
		out[i].Now /= float64(count[key])
		out[i].Caller = fmt.Sprintf("%d sidecars", count[key])
	}
	return out
}

func (r Row) callerText() string {
	if r.Sidecar {
		return r.Caller
	}
	return r.Caller + " (no sidecar)"
}

// certText is the caller's certificate as the callee saw it last, of how many
// there were.
func (r Row) certText() string {
	switch {
	case r.Leaf == 0:
		return "-"
	case r.PeerLeaf == 0:
		return fmt.Sprintf("-/%d", r.Leaf)
	}
	return fmt.Sprintf("%d/%d %.8s", r.PeerLeaf, r.Leaf, r.PeerSerial)
}

func (r Row) calleeText() string {
	return fmt.Sprintf("%s:%d", strings.TrimSuffix(r.Callee, ".svc."+domain), r.Port)
}

func (r Row) name() string { return r.callerText() + " -> " + r.calleeText() }
