//! Records whose replay does what cannot be taken back, whether their transaction is committed or not.

use super::Record;

/// Resource managers, by their place in src/include/access/rmgrlist.h.
const RMGR_DATABASE: u8 = 4;
const RMGR_TABLESPACE: u8 = 5;
const RMGR_HEAP: u8 = 10;

impl Record {
    /// Whether replaying it counts although no commit follows: `DROP DATABASE` and `DROP TABLESPACE` remove files before they
    /// commit (`XLOG_DBASE_DROP`, src/include/commands/dbcommands_xlog.h; `XLOG_TBLSPC_DROP`, src/include/commands/tablespace.h),
    /// and a row that is overwritten in place (`XLOG_HEAP_INPLACE`, src/include/access/heapam_xlog.h) marks the database invalid before.
    pub fn takes_effect_at_once(&self) -> bool {
        match self.rmgr {
            RMGR_DATABASE => self.info & 0xF0 == 0x20,
            RMGR_TABLESPACE => self.info & 0xF0 == 0x10,
            RMGR_HEAP => self.info & 0x70 == 0x70,
            _ => false,
        }
    }
}
