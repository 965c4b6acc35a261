package explain

import (
	"slices"
	"strings"
)

const nearestNames = 3

// didYouMean names what is near to name among the known ones; if nothing is,
// the first of them.
func didYouMean(name string, known []string) string {
	known = slices.Clone(known)
	slices.Sort(known)
	known = slices.Compact(known)
	if len(known) == 0 {
		return "; there is none at all"
	}
	type near struct {
		name     string
		distance int
	}
	var list []near
	for _, k := range known {
		d := distance(name, k)
		if strings.HasPrefix(k, name) {
			d = 1
		}
		if d <= max(2, len(name)/3) {
			list = append(list, near{k, d})
		}
	}
	slices.SortStableFunc(list, func(a, b near) int { return a.distance - b.distance })
	names := make([]string, 0, nearestNames)
	for _, n := range list[:min(nearestNames, len(list))] {
		names = append(names, n.name)
	}
	if len(names) > 0 {
		return "; did you mean " + strings.Join(names, " or ") + "?"
	}
	text := "; there are " + strings.Join(known[:min(nearestNames, len(known))], ", ")
	if len(known) > nearestNames {
		text += " and others"
	}
	return text
}

// distance is how many bytes must be put in, left out or replaced.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := last
			if a[i] != b[j] {
				cost++
			}
			last = row[j+1]
			row[j+1] = min(cost, row[j]+1, last+1)
		}
	}
	return row[len(b)]
}
