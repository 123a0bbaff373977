#include "mpi_check.hpp"

#include <array>
#include <exception>
#include <string>

#include "idistill/base/error.hpp"

namespace idistill::comm {

void check(const char* call, int code) {
    if (code == MPI_SUCCESS) return;
    std::array<char, MPI_MAX_ERROR_STRING> text{};
    int length = 0;
    if (MPI_Error_string(code, text.data(), &length) != MPI_SUCCESS) length = 0;
    throw Error(
        ExitCode::internal_error,
        {call, "", "",
         "MPI error " + std::to_string(code) + " (" + std::string(text.data(), static_cast<std::size_t>(length)) + ")",
         "Look for what the MPI library printed above; the same command continues the run"});
}

bool mpi_is_up() noexcept {
    int up = 0;
    int down = 0;
    return MPI_Initialized(&up) == MPI_SUCCESS && up != 0 && MPI_Finalized(&down) == MPI_SUCCESS && down == 0;
}

MPI_Datatype mpi_type(ElementType type) {
    switch (type) {
        case ElementType::u8:
            return MPI_UINT8_T;
        case ElementType::i32:
            return MPI_INT32_T;
        case ElementType::i64:
            return MPI_INT64_T;
        case ElementType::u32:
            return MPI_UINT32_T;
        case ElementType::u64:
            return MPI_UINT64_T;
        case ElementType::f32:
            return MPI_FLOAT;
        case ElementType::f64:
            return MPI_DOUBLE;
    }
    return MPI_DATATYPE_NULL;
}

MPI_Op mpi_operation(Reduction reduction) {
    switch (reduction) {
        case Reduction::sum:
            return MPI_SUM;
        case Reduction::max:
            return MPI_MAX;
        case Reduction::min:
            return MPI_MIN;
    }
    return MPI_OP_NULL;
}

OwnedComm::OwnedComm(MPI_Comm comm) : comm_(comm), exceptions_(std::uncaught_exceptions()) {
    check("MPI_Comm_set_errhandler", MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN));
}

OwnedComm::~OwnedComm() {
    if (std::uncaught_exceptions() == exceptions_ && mpi_is_up()) MPI_Comm_free(&comm_);
}

}  // namespace idistill::comm
