package inspect

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Print writes the report for people.
func (r Report) Print(w io.Writer, now time.Time) error {
	var b strings.Builder
	broken, warnings := 0, 0
	for _, h := range r.Holders {
		h.print(&b, now)
		for _, p := range h.Problems {
			if p.Severity == Error {
				broken++
			} else {
				warnings++
			}
		}
	}
	fmt.Fprintf(&b, "%s, %s, %s\n", count(len(r.Holders), "holder"), count(broken, "error"), count(warnings, "warning"))
	switch o := r.FirstOutage; {
	case o == nil:
	case !o.At.After(now):
		fmt.Fprintf(&b, "first outage if nothing is renewed: now, %s: %s\n", o.Holder, o.Reason)
	default:
		fmt.Fprintf(&b, "first outage if nothing is renewed: %s, in %s, %s: %s\n", stamp(o.At), duration(o.At.Sub(now)), o.Holder, o.Reason)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// print shows the certificates in columns, and below them what is wrong.
func (h Holder) print(b *strings.Builder, now time.Time) {
	fmt.Fprintln(b, h.Name)
	cells := make([][4]string, len(h.Certificates))
	var width [4]int
	for i, c := range h.Certificates {
		cells[i] = [4]string{string(c.Role), c.who(), "by " + c.Issuer, c.left(now)}
		for k, text := range cells[i] {
			width[k] = max(width[k], len(text))
		}
	}
	for _, c := range cells {
		fmt.Fprintf(b, "  %-*s  %-*s  %-*s  %s\n", width[0], c[0], width[1], c[1], width[2], c[2], c[3])
	}
	for _, p := range h.Problems {
		fmt.Fprintf(b, "  %s: %s [%s]\n", p.Severity, p.Text, p.Code)
	}
	fmt.Fprintln(b)
}

func (c Certificate) who() string {
	switch {
	case c.Identity != "":
		return c.Identity
	case c.Subject != "":
		return c.Subject
	}
	return "serial " + c.Serial
}

func (c Certificate) left(now time.Time) string {
	left := c.NotAfter.Sub(now)
	switch {
	case left <= 0:
		return "expired " + duration(-left) + " ago"
	case now.Before(c.NotBefore):
		return "valid in " + duration(c.NotBefore.Sub(now))
	case c.Renewal.IsZero():
		return duration(left) + " left"
	case !c.Renewal.After(now):
		return duration(left) + " left, renewal due"
	}
	return duration(left) + " left, renewal in " + duration(c.Renewal.Sub(now))
}

// duration is short, and as exact as people need it.
func duration(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d >= 2*day:
		return fmt.Sprintf("%d days", d/day)
	case d >= time.Hour:
		d = d.Truncate(time.Minute)
	}
	text := d.Truncate(time.Second).String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = strings.TrimSuffix(text, zero[1:])
		}
	}
	return text
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
