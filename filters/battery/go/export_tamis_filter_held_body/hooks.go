package export_tamis_filter_held_body

import "wit_component/battery"

var OnHeldBody = battery.OnHeldBody
