package manage

// CheckFilter is parseFilter, for tests from outside.
func (*Service) CheckFilter(text string) error {
	_, err := parseFilter(text)
	return err
}
