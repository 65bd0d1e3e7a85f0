// Package editdistance measures how similar two names are, to recognise typing errors.
package editdistance

// Between returns the Levenshtein distance of a and b: the smallest number of bytes to
// insert, delete or replace that turns one into the other. Two bytes that changed places
// count as two. It takes time in proportion to the product of the lengths, so callers must
// bound them.
func Between(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
