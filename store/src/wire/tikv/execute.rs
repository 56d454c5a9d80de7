//! Any command of a batch: to the method that carries it out, or to the answer that it is not served. Every one is counted.

use super::command::Session;
use super::failure::{Failure, Refusable};
use super::unserved::Unserved;
use crate::wire::grpc::Code;
use crate::wire::proto::tikvpb::{Answer, Command, EmptyResponse};

impl Session<'_> {
    /// Any command of a batch.
    pub(super) async fn execute(self, command: Command) -> Answer {
        match command {
            Command::RawGet(request) => {
                Answer::RawGet(self.settled("BatchCommands/RawGet", self.get(request).await))
            }
            Command::RawBatchGet(request) => {
                Answer::RawBatchGet(self.settled("BatchCommands/RawBatchGet", self.batch_get(request).await))
            }
            Command::RawPut(request) => {
                Answer::RawPut(self.settled("BatchCommands/RawPut", self.put(request).await))
            }
            Command::RawBatchPut(request) => {
                Answer::RawBatchPut(self.settled("BatchCommands/RawBatchPut", self.batch_put(request).await))
            }
            Command::RawDelete(request) => {
                Answer::RawDelete(self.settled("BatchCommands/RawDelete", self.delete(request).await))
            }
            Command::RawBatchDelete(request) => Answer::RawBatchDelete(
                self.settled("BatchCommands/RawBatchDelete", self.batch_delete(request).await),
            ),
            Command::RawScan(request) => {
                Answer::RawScan(self.settled("BatchCommands/RawScan", self.scan(request).await))
            }
            Command::RawDeleteRange(request) => Answer::RawDeleteRange(
                self.settled("BatchCommands/RawDeleteRange", self.delete_range(request).await),
            ),
            Command::RawBatchScan(request) => Answer::RawBatchScan(
                self.settled("BatchCommands/RawBatchScan", self.batch_scan(request).await),
            ),
            Command::GetHealthFeedback(request) => Answer::GetHealthFeedback(
                self.settled("BatchCommands/GetHealthFeedback", Ok(self.health_feedback(request))),
            ),
            Command::Empty(request) => Answer::Empty(EmptyResponse { test_id: request.test_id }),
            Command::Get(_) => Answer::Get(self.unserved("BatchCommands/Get")),
            Command::Scan(_) => Answer::Scan(self.unserved("BatchCommands/Scan")),
            Command::Prewrite(_) => Answer::Prewrite(self.unserved("BatchCommands/Prewrite")),
            Command::Commit(_) => Answer::Commit(self.unserved("BatchCommands/Commit")),
            Command::Cleanup(_) => Answer::Cleanup(self.unserved("BatchCommands/Cleanup")),
            Command::BatchGet(_) => Answer::BatchGet(self.unserved("BatchCommands/BatchGet")),
            Command::BatchRollback(_) => Answer::BatchRollback(self.unserved("BatchCommands/BatchRollback")),
            Command::ScanLock(_) => Answer::ScanLock(self.unserved("BatchCommands/ScanLock")),
            Command::ResolveLock(_) => Answer::ResolveLock(self.unserved("BatchCommands/ResolveLock")),
            Command::Gc(_) => Answer::Gc(self.unserved("BatchCommands/Gc")),
            Command::DeleteRange(_) => Answer::DeleteRange(self.unserved("BatchCommands/DeleteRange")),
            Command::Coprocessor(_) => Answer::Coprocessor(self.unserved("BatchCommands/Coprocessor")),
            Command::PessimisticLock(_) => {
                Answer::PessimisticLock(self.unserved("BatchCommands/PessimisticLock"))
            }
            Command::PessimisticRollback(_) => {
                Answer::PessimisticRollback(self.unserved("BatchCommands/PessimisticRollback"))
            }
            Command::CheckTxnStatus(_) => {
                Answer::CheckTxnStatus(self.unserved("BatchCommands/CheckTxnStatus"))
            }
            Command::TxnHeartBeat(_) => Answer::TxnHeartBeat(self.unserved("BatchCommands/TxnHeartBeat")),
            Command::CheckSecondaryLocks(_) => {
                Answer::CheckSecondaryLocks(self.unserved("BatchCommands/CheckSecondaryLocks"))
            }
            Command::RawCoprocessor(_) => {
                Answer::RawCoprocessor(self.unserved("BatchCommands/RawCoprocessor"))
            }
            Command::FlashbackToVersion(_) => {
                Answer::FlashbackToVersion(self.unserved("BatchCommands/FlashbackToVersion"))
            }
            Command::PrepareFlashbackToVersion(_) => {
                Answer::PrepareFlashbackToVersion(self.unserved("BatchCommands/PrepareFlashbackToVersion"))
            }
            Command::Flush(_) => Answer::Flush(self.unserved("BatchCommands/Flush")),
            Command::BufferBatchGet(_) => {
                Answer::BufferBatchGet(self.unserved("BatchCommands/BufferBatchGet"))
            }
        }
    }

    /// The response to whatever came out of a command of a batch, counted.
    fn settled<A: Refusable>(&self, name: &'static str, result: Result<A, Failure>) -> A {
        let code = result.as_ref().err().map_or(Code::Ok, Failure::code);
        self.core.tally.count(name, code);
        result.unwrap_or_else(A::refused)
    }

    /// The answer to a command that is not served, counted.
    fn unserved<A: Unserved>(&self, name: &'static str) -> A {
        self.core.tally.count(name, Code::Unimplemented);
        A::unserved(name.rsplit('/').next().unwrap_or(name))
    }
}
