package provider

import (
	"strings"
	"testing"
)

func TestJSONElements(t *testing.T) {
	for in, want := range map[string]string{
		`[]`:                `ok`,
		` [ 1 , {"a":[2]}]`: `ok 1 {"a":[2]}`,
		`[1,2,3]`:           `ok 1 2 3`,
		`[1,2,3,4]`:         `ok 1 2 3`,
		`[1,2,3,!`:          `ok 1 2 3`, // beyond the third, it is not decoded
		``:                  ``, `7`: ``, `{}`: ``, `null`: ``, `[`: ``, `[1`: ``, `[1,`: ``, `[1]]`: ``, `[1] 2`: ``, `[1}`: ``, `[1,]`: ``, `[1 2]`: ``,
	} {
		elements, ok := JSONElements([]byte(in), 3)
		got := ""
		if ok {
			got = "ok"
			for _, e := range elements {
				got += " " + string(e)
			}
		}
		if got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

// An array of many small elements costs no more than its first ones.
func TestJSONElementsStops(t *testing.T) {
	data := []byte("[" + strings.Repeat("{},", 1<<20) + "{}]")
	if n := testing.AllocsPerRun(10, func() {
		if elements, ok := JSONElements(data, 100); !ok || len(elements) != 100 {
			t.Errorf("%d elements, %t", len(elements), ok)
		}
	}); n > 1000 {
		t.Errorf("%v allocations", n)
	}
}
