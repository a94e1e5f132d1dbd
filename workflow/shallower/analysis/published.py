"""What the original states as numbers: its Table 1 and section 3.4."""

SIZES = {"width": 1024, "heads": 8, "ffn_hidden": 2752, "vocabulary": 32_000}
TABLE_1 = {
    "baseline": {5: 128_789_504, 6: 141_440_000, 7: 154_090_496, 8: 166_740_992},
    "proposed": {5: 129_449_984, 6: 142_232_576, 7: 155_015_168, 8: 167_797_760},
    "added": {5: 660_480, 6: 792_576, 7: 924_672, 8: 1_056_768},
}
