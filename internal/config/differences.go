package config

import "reflect"

// Differences returns the full names of the settings that differ between two
// configurations, in the order of the file.
func (c *Config) Differences(other *Config) []string {
	return differences(nil, "", reflect.ValueOf(*c), reflect.ValueOf(*other))
}

func differences(found []string, section string, a, b reflect.Value) []string {
	for i := range a.NumField() {
		name := section + a.Type().Field(i).Tag.Get("yaml")
		x, y := a.Field(i), b.Field(i)
		switch {
		case x.Kind() == reflect.Struct:
			found = differences(found, name+".", x, y)
		case x.Kind() == reflect.Slice && x.Len() == 0 && y.Len() == 0:
			// An empty list is equal to no list.
		case !reflect.DeepEqual(x.Interface(), y.Interface()):
			found = append(found, name)
		}
	}
	return found
}
