package export_tamis_filter_completion

import "wit_component/battery"

var OnCompletion = battery.OnCompletion
