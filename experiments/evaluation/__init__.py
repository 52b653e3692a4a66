"""Any rules on any tasks: what is asked, decoded, judged and kept."""
