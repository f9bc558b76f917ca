//! `#[derive(Shared)]`: the compiler checks that nothing private to a process enters the arena.
//!
//! The derive demands that every field is itself `Shared`; pointers, references, function pointers, `Vec`, `Box` and
//! trait objects have no such implementation, so a struct that holds one does not compile.
use proc_macro::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, parse_macro_input};

/// Implements `csel_core::arena::Shared` for a struct or enum whose fields are all `Shared`.
#[proc_macro_derive(Shared)]
pub fn shared(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let name = &input.ident;
    let (impl_generics, ty_generics, where_clause) = input.generics.split_for_impl();
    let fields: Vec<_> = match &input.data {
        Data::Struct(s) => s.fields.iter().map(|f| f.ty.clone()).collect(),
        Data::Enum(e) => e.variants.iter().flat_map(|v| v.fields.iter().map(|f| f.ty.clone())).collect(),
        Data::Union(_) => return syn::Error::new_spanned(name, "a union cannot be checked field by field").to_compile_error().into(),
    };
    quote! {
        const _: () = {
            fn shareable<T: crate::arena::Shared>() {}
            #[allow(dead_code, clippy::extra_unused_type_parameters)]
            fn fields #impl_generics () #where_clause { #( shareable::<#fields>(); )* }
            // SAFETY: every field was just demanded to be Shared.
            unsafe impl #impl_generics crate::arena::Shared for #name #ty_generics #where_clause {}
        };
    }
    .into()
}
