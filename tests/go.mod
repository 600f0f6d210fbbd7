module wssgate/tests

go 1.26.0

require wssgate v0.0.0

replace wssgate => ../

ignore ./node_modules
