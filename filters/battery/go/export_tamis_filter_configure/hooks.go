package export_tamis_filter_configure

import "wit_component/battery"

var Configure = battery.Configure
