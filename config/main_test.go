package config

import (
	"testing"

	"wssgate/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
