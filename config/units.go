package config

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// maxDuration bounds every duration in the file, so that adding it to the current time
// cannot overflow.
const maxDuration = 366 * 24 * time.Hour

// maxSize bounds every size of a file, in bytes.
const maxSize = 1 << 40

func (d *decoder) duration(p keyPath, value any, v reflect.Value) {
	if n, ok := value.(int64); ok && n != 0 {
		d.undecodable(p, fmt.Sprintf(`write "%ds" for seconds`, n), "%d has no unit", n)
		return
	} else if ok {
		v.SetInt(0)
		return
	}
	s, ok := value.(string)
	if !ok {
		d.wrongType(p, `a duration such as "10s"`, value)
		return
	}
	duration, err := ParseDuration(s)
	if err != nil {
		d.undecodable(p, `a duration is a number and a unit: "500ms", "10s", "5m", "1h", "14d"`, "%q %v", s, err)
		return
	}
	v.SetInt(int64(duration))
}

// ParseDuration is time.ParseDuration with days of 24 hours. It refuses
// durations that are negative or longer than maxDuration. The text of an error
// completes a sentence that begins with s.
func ParseDuration(s string) (time.Duration, error) {
	duration, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n int64
		n, err = strconv.ParseInt(days, 10, 32)
		duration = time.Duration(min(n, math.MaxInt64/int64(24*time.Hour))) * 24 * time.Hour
	}
	switch {
	case err != nil:
		return 0, errors.New("is not a duration")
	case duration < 0:
		return 0, errors.New("is negative")
	case duration > maxDuration:
		return 0, errors.New("is longer than a year")
	}
	return duration, nil
}

func (d *decoder) size(p keyPath, value any, v reflect.Value) {
	var s string
	switch value := value.(type) {
	case string:
		s = value
	case int64:
		s = strconv.FormatInt(value, 10)
	default:
		d.wrongType(p, `a size such as "64KiB"`, value)
		return
	}
	size, err := ParseSize(s)
	if err != nil {
		d.undecodable(p, `a size is a whole number and a unit: "512B", "64KiB", "1MiB", or bytes without a unit`, "%q %v", s, err)
		return
	}
	v.SetInt(int64(size))
}

// sizeUnits are the units of a size in bytes. Single letters are omitted: "64K"
// means 64,000 to some people and 65,536 to others.
var sizeUnits = map[string]int64{
	"":    1,
	"b":   1,
	"kb":  1e3,
	"mb":  1e6,
	"gb":  1e9,
	"kib": 1 << 10,
	"mib": 1 << 20,
	"gib": 1 << 30,
}

// ParseSize reads a size in bytes, with or without a unit. The text of an error
// completes a sentence that begins with s.
func ParseSize(s string) (Size, error) {
	digits := strings.TrimRight(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	unit, ok := sizeUnits[strings.ToLower(s[len(digits):])]
	n, err := strconv.ParseInt(strings.TrimSuffix(digits, " "), 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange), err == nil && ok && n > maxSize/unit:
		return 0, errors.New("is out of range")
	case err != nil, !ok:
		return 0, errors.New("is not a size")
	case n < 0:
		return 0, errors.New("is negative")
	}
	return Size(n * unit), nil
}

func (d *decoder) rate(p keyPath, value any, v reflect.Value) {
	s, ok := value.(string)
	if n, isNumber := value.(int64); isNumber && n == 0 {
		s, ok = "0", true
	}
	if !ok {
		d.wrongType(p, `a rate such as "20/10m"`, value)
		return
	}
	rate, err := parseRate(s)
	if err != nil {
		d.undecodable(p, `a rate is a whole number, a slash and a duration: "20/10m"; "" or 0 turns it off`, "%q %v", s, err)
		return
	}
	v.Set(reflect.ValueOf(rate))
}

// maxRate bounds the number in a rate, far above any useful value.
const maxRate = 1_000_000

// parseRate reads a rate. The text of an error completes a sentence that begins
// with s.
func parseRate(s string) (Rate, error) {
	if s == "" || s == "0" {
		return Rate{}, nil
	}
	count, period, ok := strings.Cut(s, "/")
	if !ok {
		return Rate{}, errors.New("is not a rate")
	}
	n, err := strconv.ParseUint(count, 10, 63)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return Rate{}, errors.New("is not a rate")
	}
	every, periodErr := ParseDuration(period)
	switch {
	case err != nil, n > maxRate:
		return Rate{}, fmt.Errorf("is more than %d at once", maxRate)
	case periodErr != nil:
		return Rate{}, fmt.Errorf("has the period %q, which %w", period, periodErr)
	case n == 0:
		return Rate{}, errors.New("allows no events")
	case every < time.Second:
		return Rate{}, errors.New("has a period of less than a second")
	}
	return Rate{int(n), every}, nil
}

// String formats the rate as in the file.
func (r Rate) String() string {
	if r == (Rate{}) {
		return ""
	}
	period := r.Period.String()
	for _, zero := range []string{"m0s", "h0m"} { // 10m0s is 10m
		if cut, ok := strings.CutSuffix(period, zero); ok {
			period = cut + zero[:1]
		}
	}
	return fmt.Sprintf("%d/%s", r.Count, period)
}

// String formats the size with the largest unit that divides it.
func (s Size) String() string {
	for _, unit := range []string{"GiB", "MiB", "KiB"} {
		if n := sizeUnits[strings.ToLower(unit)]; s != 0 && int64(s)%n == 0 {
			return fmt.Sprintf("%d%s", int64(s)/n, unit)
		}
	}
	return strconv.FormatInt(int64(s), 10)
}
