package strict

import "strings"

// Nearest is the candidate that was probably meant by name; empty if none is
// near. Case counts little: mTLS is near mtls.
func Nearest(name string, candidates []string) string {
	best, bestCost := "", min(3, (len(name)+2)/3)+1
	lower := strings.ToLower(name)
	for _, c := range candidates {
		if len(c)-len(name) >= bestCost || len(name)-len(c) >= bestCost {
			continue
		}
		if cost := distance(lower, strings.ToLower(c)); cost < bestCost {
			best, bestCost = c, cost
		}
	}
	return best
}

// distance counts insertions, deletions, replacements and swaps of neighbours.
func distance(a, b string) int {
	var before []int
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

// didYouMean is ", did you mean ...?" or nothing.
func didYouMean(name string, candidates []string) string {
	if near := Nearest(name, candidates); near != "" {
		return `, did you mean "` + near + `"?`
	}
	return ""
}
